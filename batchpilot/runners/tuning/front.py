"""Several objectives at once: the settings that no other tried one beats in all of them."""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass

from optuna.trial import FrozenTrial, TrialState

from batchpilot.baselines import SERVER_DEFAULT
from batchpilot.core.limits import Limits
from batchpilot.core.names import lookup
from batchpilot.engines import SimulationResult
from batchpilot.envs.scenarios import PreparedRun
from batchpilot.runners.tuning.bench import OBJECTIVES, SimulatedBench, figures
from batchpilot.runners.tuning.search import Search, constraints, finishing_first
from batchpilot.tuners.bayesian.exploring import Exploration
from batchpilot.tuners.bayesian.studies import counts, violation

UNABLE = ("cmaes",)
"""Samplers that know one objective only."""


@dataclass(frozen=True, slots=True)
class Aim:
    """One objective.

    Attributes:
        name: what it is called.
        of: its value in a run.
        direction: "maximize" or "minimize".
        unit: of its value; empty for a share or a score.
    """

    name: str
    of: Callable[[SimulationResult, PreparedRun | None], float]
    direction: str
    unit: str = ""

    @property
    def shown(self) -> str:
        """Name and unit."""
        return f"{self.name}, {self.unit}" if self.unit else self.name


def ttft_p95_s(result: SimulationResult, run: PreparedRun | None) -> float:
    """95th percentile of the time to first token of those that got one, s; infinite where nobody did.

    Args:
        result: of a whole run.
        run: unused.
    """
    found = result.percentile_ms("ttft_ms", 95) / 1000.0
    return found if math.isfinite(found) else math.inf


def refused(result: SimulationResult, run: PreparedRun | None) -> float:
    """Share of the requests that were refused.

    Args:
        result: of a whole run.
        run: unused.
    """
    return result.refused_fraction


AIMS = {
    **{name: Aim(name, of, "maximize") for name, of in OBJECTIVES.items()},
    "ttft-p95": Aim("ttft-p95", ttft_p95_s, "minimize", "s"),
    "refused": Aim("refused", refused, "minimize"),
}
"""What runs can be judged by together; the two that are minimised are best by themselves where nobody is served."""

_WORST = {"maximize": 0.0, "minimize": 1e9}


@dataclass(frozen=True, slots=True)
class Tried:
    """A setting and what it came to.

    Attributes:
        limits: the setting.
        seen: value of each aim, mean over the seeds of the study.
        unseen: the same on others; None where none were asked for.
        on_front: whether no other tried setting that keeps every constraint beats it in all aims.
    """

    limits: Limits
    seen: tuple[float, ...]
    unseen: tuple[float, ...] | None
    on_front: bool


def aims_of(text: str) -> list[Aim]:
    """The aims that a list of names stands for.

    Args:
        text: names, separated by commas.

    Raises:
        ValueError: an unknown one, the same twice, or fewer than two.
    """
    names = [name.strip() for name in text.split(",")]
    aims = [lookup(AIMS, name, "objective") for name in names]
    if len(set(names)) < max(len(names), 2):
        raise ValueError(f"objectives are {text!r}; give two or more, each once, of {', '.join(AIMS)}")
    return aims


def search_front(
    search: Search, bench: SimulatedBench, aims: Sequence[Aim], on_progress: Callable[[int, int], None]
) -> Exploration:
    """Run trials until the study holds as many as wanted; one that is stopped goes on when it is run again.

    Args:
        search: what is searched, in the directions of the aims; its sampler knows several.
        bench: what limits are tried on.
        aims: what is aimed at.
        on_progress: told how many trials are told, and how many of them lie on the front.

    Raises:
        KeyboardInterrupt: stopped by hand; finished trials are kept.
    """
    exploration = search.explore()
    tpot_ms = bench.tpot_ms(search.seeds[0])
    exploration.suggest(search.space.base_params(tpot_ms))
    with finishing_first() as interrupted:
        while sum(map(counts, exploration.trials())) < search.trials and not interrupted():
            limits = exploration.ask(tpot_ms)
            try:
                values, broken = judged(search, bench, aims, limits)
                exploration.tell(values, broken)
            finally:
                exploration.abandon()
            on_progress(exploration.told, len(exploration.study.best_trials))
    if interrupted():
        raise KeyboardInterrupt
    return exploration


def judged(
    search: Search, bench: SimulatedBench, aims: Sequence[Aim], limits: Limits
) -> tuple[tuple[float, ...], Mapping[str, float]]:
    """Values of a setting on the seeds of a study, and how far it violates each constraint.

    Args:
        search: its seeds and constraints.
        bench: what it runs on.
        aims: what is aimed at.
        limits: the setting.
    """
    runs = [(bench.served(limits, seed), bench.prepared(seed)) for seed in search.seeds]
    found = [figures(result, "goodput", run) for result, run in runs]
    return _means(aims, runs), constraints(search, found)


def found_front(
    search: Search,
    exploration: Exploration,
    aims: Sequence[Aim],
    unseen_bench: SimulatedBench,
    unseen: Sequence[int],
    tpot_ms: float,
) -> list[Tried]:
    """Every setting of the front by its first aim, each judged on unseen seeds too, then what servers ship.

    Args:
        search: what was searched.
        exploration: its study.
        aims: what was aimed at.
        unseen_bench: what unseen seeds run on.
        unseen: seeds that the study has not seen.
        tpot_ms: what step targets are multiples of.

    Raises:
        ValueError: no trial keeps every constraint.
    """
    complete = [trial for trial in exploration.trials() if trial.state is TrialState.COMPLETE]
    front = [trial for trial in exploration.study.best_trials if violation(trial) == 0]
    if not front:
        raise ValueError(f"none of {len(complete)} trials keeps every constraint; loosen one, or run more trials")
    by_limits: dict[Limits, FrozenTrial] = {}
    for trial in sorted(front, key=lambda trial: trial.values):
        by_limits.setdefault(exploration.limits_of(trial, tpot_ms), trial)

    def tried(limits: Limits, trial: FrozenTrial, on_front: bool) -> Tried:
        runs = [(unseen_bench.served(limits, seed), unseen_bench.prepared(seed)) for seed in unseen]
        return Tried(limits, tuple(trial.values), _means(aims, runs) if runs else None, on_front)

    told = [tried(limits, trial, True) for limits, trial in by_limits.items()]
    shipped = next((trial for trial in complete if exploration.limits_of(trial, tpot_ms) == SERVER_DEFAULT), None)
    if shipped is not None and SERVER_DEFAULT not in by_limits:
        told.append(tried(SERVER_DEFAULT, shipped, False))
    return told


def _means(aims: Sequence[Aim], runs: Sequence[tuple[SimulationResult, PreparedRun]]) -> tuple[float, ...]:
    means = []
    for aim in aims:
        values = [aim.of(result, run) for result, run in runs]
        mean = sum(values) / len(values)
        means.append(mean if math.isfinite(mean) else _WORST[aim.direction])
    return tuple(means)
