"""A record: what a strategy scored in each run of a suite, where it comes from, and the figures that follow.

Figures are stated for whoever reads the file; reading it computes them anew and refuses a file whose figures differ.
"""

from __future__ import annotations

import json
import math
from collections.abc import Mapping
from pathlib import Path
from typing import Any, Literal, Self

import numpy as np
from pydantic import Field, ValidationError, model_validator

from batchpilot.configs.reading import YamlFile
from batchpilot.configs.strict import StrictModel, config_error, problem
from batchpilot.core.files import json_text, write_atomic
from batchpilot.core.provenance import config_hash
from batchpilot.envs.episode import DEFAULT, HINDSIGHT, normalised
from batchpilot.envs.registration import earlier_ids, env_id
from batchpilot.runners.report.statistics import Estimate, estimate

Shares = list[float]


class ScenarioScores(StrictModel):
    """Goodput shares in one scenario, one a seed.

    Attributes:
        goodput: of the strategy.
        default: of what servers ship.
        hindsight: of the best fixed setting of the track for the very run.
        content_hash: of the scenario.
    """

    goodput: Shares
    default: Shares
    hindsight: Shares
    content_hash: str

    @property
    def normalised(self) -> Shares:
        """Scores of the runs: 0 is the default, 1 is hindsight; NaN where there was no room."""
        runs = zip(self.goodput, self.default, self.hindsight, strict=True)
        return [normalised(ours, {DEFAULT: default, HINDSIGHT: best}) for ours, default, best in runs]


class Figure(StrictModel):
    """An interquartile mean with its 95 % interval.

    Attributes:
        value: the mean; None without a run that counts.
        low: lower end; None with a single seed.
        high: upper end.
        runs: that count.
    """

    value: float | None
    low: float | None
    high: float | None
    runs: int


class Figures(StrictModel):
    """What the runs come to.

    Attributes:
        normalised: score over the runs with room between default and hindsight.
        goodput: share over all runs.
        mean_goodput: plain mean of the same.
        worst_scenario: where the strategy comes least near hindsight.
        worst_of_hindsight: how near: mean goodput there over hindsight's; None where hindsight serves nothing.
    """

    normalised: Figure
    goodput: Figure
    mean_goodput: float
    worst_scenario: str
    worst_of_hindsight: float | None


class Record(StrictModel):
    """One strategy on one suite.

    Attributes:
        schema_version: changes with any key or meaning.
        id: the environment's id: track, suite and version.
        name: what the page calls the strategy.
        strategy: as it was named, a file without its folders.
        sha256: of the policy file, a shipped one's too; None for a strategy that follows none.
        track: the limits that it may set, and hindsight too.
        suite: where it was judged.
        seeds: of each scenario.
        test_set: hash of scenarios, seeds, track and what the references reach: only equal ones are comparable.
        scenarios: scores by scenario.
        figures: what they come to.
        training: what the policy file says of where it comes from.
        command: that gives this record.
        config_hash: of the strategy's configuration and the scenarios.
        git_revision: of the code that judged.
        versions: of what decides numbers.
    """

    schema_version: Literal[1] = 1
    id: str
    name: str = Field(min_length=1, max_length=60)
    strategy: str
    sha256: str | None
    track: str
    suite: str
    seeds: list[int] = Field(min_length=1)
    test_set: str
    scenarios: dict[str, ScenarioScores] = Field(min_length=1)
    figures: Figures
    training: dict[str, Any] = Field(default_factory=dict)
    command: str
    config_hash: str
    git_revision: str
    versions: dict[str, str]

    @model_validator(mode="after")
    def _adds_up(self) -> Self:
        for name, one in self.scenarios.items():
            for column in ("goodput", "default", "hindsight"):
                if len(getattr(one, column)) != len(self.seeds):
                    raise problem(f"there are {len(self.seeds)} seeds, one figure each", "scenarios", name, column)
        now = env_id(self.track, self.suite)
        if self.id != now and self.id not in earlier_ids(self.track, self.suite):
            raise problem(f"id is {self.id!r}, but track and suite are those of {now}", "id")
        if self.test_set != test_set_of(self.track, self.seeds, self.scenarios):
            raise problem("test_set is not the hash of these scenarios, seeds and references", "test_set")
        if not _equal(self.figures.model_dump(), figures_of(self.scenarios).model_dump()):
            raise problem("the figures do not follow from the scenarios' scores; submit the strategy again", "figures")
        return self

    def text(self) -> str:
        """The record as JSON; equal records are equal bytes."""
        return json_text(self.model_dump(), indent=1) + "\n"


def test_set_of(track: str, seeds: list[int], scenarios: Mapping[str, ScenarioScores]) -> str:
    """Hash of all that two records must share to be compared.

    Args:
        track: the limits that may be set.
        seeds: of each scenario.
        scenarios: by name.
    """
    told = {name: [one.content_hash, one.default, one.hindsight] for name, one in scenarios.items()}
    return config_hash([track, seeds, told])


def figures_of(scenarios: Mapping[str, ScenarioScores]) -> Figures:
    """What scores come to.

    Args:
        scenarios: by name.
    """
    strata = scenarios.values()
    of_hindsight = {name: _ratio(np.mean(one.goodput), np.mean(one.hindsight)) for name, one in scenarios.items()}
    worst = min(of_hindsight, key=of_hindsight.__getitem__)
    return Figures(
        normalised=_figure(estimate([one.normalised for one in strata])),
        goodput=_figure(estimate([one.goodput for one in strata])),
        mean_goodput=float(np.mean([one.goodput for one in strata])),
        worst_scenario=worst,
        worst_of_hindsight=of_hindsight[worst] if math.isfinite(of_hindsight[worst]) else None,
    )


def write_record(path: Path, record: Record, *, overwrite: bool = False) -> Path:
    """Write a record.

    Args:
        path: where.
        record: what.
        overwrite: whether a file that is there may be replaced.

    Raises:
        ValueError: there is one already.
        OSError: it cannot be written.
    """
    if path.exists() and not overwrite:
        raise ValueError(f"{path} is there already; add --overwrite, or give another --out")
    return write_atomic(path, record.text())


def read_record(path: Path) -> Record:
    """Read a record and check that it adds up.

    Args:
        path: what `write_record` wrote.

    Raises:
        ValueError: it is no record, or its figures do not follow from its scores.
        OSError: it cannot be read.
    """
    try:
        data = json.loads(path.read_text(encoding="utf-8"))
    except ValueError as error:
        raise ValueError(f"{path} is no record: {error}") from None
    try:
        return Record.model_validate(data)
    except ValidationError as error:
        raise config_error(error, YamlFile(path, data if isinstance(data, dict) else {}, {})) from None


def _figure(found: Estimate) -> Figure:
    value, low, high = (number if math.isfinite(number) else None for number in (found.value, found.low, found.high))
    return Figure(value=value, low=low, high=high, runs=found.count)


def _ratio(ours: Any, theirs: Any) -> float:
    return float(ours / theirs) if theirs > 0 else math.inf


def _equal(one: Any, other: Any) -> bool:
    """Whether two figures are the same but for the rounding of another processor."""
    if isinstance(one, dict) and isinstance(other, dict):
        return one.keys() == other.keys() and all(_equal(one[key], other[key]) for key in one)
    if isinstance(one, float) and isinstance(other, float):
        return math.isclose(one, other, rel_tol=1e-9, abs_tol=1e-12)
    return bool(one == other)
