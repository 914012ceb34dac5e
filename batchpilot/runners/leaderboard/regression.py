"""The regression gate of a leaderboard: today's figures against stored ones, scenario by scenario.

Source: SPEC 1. There a success rate below 0.99 fails; here, where scenarios past capacity must refuse, it is held
against the stored rate like the rest.
"""

from __future__ import annotations

import json
import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from batchpilot.core.files import write_json
from batchpilot.runners.report.grids import Cell, Grid, number
from batchpilot.runners.report.summary import OVERALL, Row

_KEY = ("scenario", "tuner")


@dataclass(frozen=True, slots=True)
class Bound:
    """How far a figure may move.

    Attributes:
        column: of the summary.
        name: what tables call it.
        ratio: the bound on today's figure over the stored one.
        at_least: whether the ratio must stay above the bound, or below.
        more: what may be added to an upper bound, in the figure's own unit.
    """

    column: str
    name: str
    ratio: float
    at_least: bool = True
    more: float = 0.0

    def passes(self, now: float, before: float) -> bool:
        """Whether a figure is within the bound; one that was undefined before may stay so.

        Args:
            now: today's.
            before: the stored one.
        """
        if math.isnan(now) or math.isnan(before):
            return math.isnan(now) and math.isnan(before)
        return now >= self.ratio * before if self.at_least else now <= self.ratio * before + self.more

    def __str__(self) -> str:
        sign, more = ">=" if self.at_least else "<=", f" + {self.more:g}" if self.more else ""
        return f"{sign} {self.ratio:g} x{more}"


BOUNDS = (
    Bound("throughput_tokens_per_s", "throughput", 0.9),
    Bound("utilisation", "utilisation", 0.8),
    Bound("e2e_p95_ms", "p95 latency", 1.2, at_least=False),
    Bound("success_rate", "success", 0.99),
    Bound("refused_fraction", "refused", 1.0, at_least=False, more=0.01),
)
"""The last is ours: latencies are those of the served, and nobody shall pass by serving only the quick ones."""


@dataclass(frozen=True, slots=True)
class Regression:
    """One figure outside its bound, or one that is missing.

    Attributes:
        scenario: where.
        tuner: whose.
        figure: which, or what is missing.
        now: today's value.
        before: the stored one.
        bound: what was allowed, in words.
    """

    scenario: str
    tuner: str
    figure: str
    now: float = math.nan
    before: float = math.nan
    bound: str = ""


def save_baseline(path: Path, summary: Sequence[Row], origin: Mapping[str, Any]) -> Path:
    """Write a summary as the baseline that later runs are held against.

    Args:
        path: JSON file to write.
        summary: summary rows; those over all scenarios are left out.
        origin: where they come from.

    Raises:
        OSError: the file cannot be written; an old one is untouched.
    """
    columns = (*_KEY, *(bound.column for bound in BOUNDS))
    rows = [{column: row[column] for column in columns} for row in summary if row["scenario"] != OVERALL]
    return write_json(path, {"rows": rows, **origin})


def load_baseline(path: Path) -> list[dict[str, Any]]:
    """The rows of a baseline file.

    Args:
        path: what `save_baseline` wrote.

    Raises:
        ValueError: not a baseline; the message names the file and what is missing.
        OSError: the file cannot be read.
    """
    try:
        rows = list(json.loads(path.read_text())["rows"])
        missing = {*_KEY, *(bound.column for bound in BOUNDS)} - set.intersection(*(set(row) for row in rows))
        rows = [{name: math.nan if value is None else value for name, value in row.items()} for row in rows]
    except (ValueError, KeyError, TypeError, AttributeError) as error:
        raise ValueError(f"{path}: not a leaderboard's baseline ({error!r}); write one with --save-baseline") from None
    if missing:
        raise ValueError(f"{path}: baseline rows lack {', '.join(sorted(missing))}; write one with --save-baseline")
    return rows


def regressions(summary: Sequence[Row], baseline: Sequence[Row]) -> list[Regression]:
    """What got worse than the gate allows, and what only one side holds, so that nothing slips out.

    Args:
        summary: today's summary rows.
        baseline: the stored ones.
    """
    stored = {(row["scenario"], row["tuner"]): row for row in baseline}
    found = []
    for row in summary:
        if row["scenario"] == OVERALL:
            continue
        place = (row["scenario"], row["tuner"])
        before = stored.pop(place, None)
        if before is None:
            found.append(Regression(*place, "not in the baseline"))
            continue
        for bound in BOUNDS:
            now, then = float(row[bound.column]), float(before[bound.column])
            if not bound.passes(now, then):
                found.append(Regression(*place, bound.name, now, then, str(bound)))
    return found + [Regression(*place, "not measured now") for place in stored]


def regression_grid(found: Sequence[Regression]) -> Grid:
    """The table of a failed gate.

    Args:
        found: what `regressions` found.
    """
    rows = tuple(
        tuple(
            Cell(text)
            for text in (one.scenario, one.tuner, one.figure, number(one.before, 3), number(one.now, 3), one.bound)
        )
        for one in found
    )
    columns = ("Scenario", "Strategy", "Figure", "stored", "now", "allowed")
    return Grid("What got worse than the stored baseline allows?", columns, rows)
