"""Which scenarios tell strategies apart: the distance of the best from the worst against its standard error."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from batchpilot.envs.episode import LEAST_ROOM
from batchpilot.runners.report.statistics import paired

ERRORS = 2.0
"""Standard errors that the distance must pass."""


@dataclass(frozen=True, slots=True)
class Spread:
    """How far a scenario puts its strategies apart.

    Attributes:
        scenario: its name.
        best: the strategy of the highest mean share.
        worst: that of the lowest.
        high: the best one's mean goodput share.
        distance: by which the worst one's is lower.
        error: standard error of the distance over seeds, of runs on the same requests; NaN for a single seed. Best and
            worst are picked from these very runs, so it is somewhat too small.
        seeds: that both ran.
    """

    scenario: str
    best: str
    worst: str
    high: float
    distance: float
    error: float
    seeds: int

    @property
    def ranks(self) -> bool:
        """Whether somebody is better than somebody else by more than a run's room and than chance."""
        return self.distance >= LEAST_ROOM and not self.distance <= ERRORS * self.error


def spreads(rows: Sequence[Mapping[str, Any]], column: str = "goodput_fraction") -> list[Spread]:
    """How far each scenario puts the strategies that ran apart; scenarios with fewer than two of them are left out.

    Args:
        rows: result rows, one a run.
        column: the quantity, larger is better.
    """
    shares: dict[str, dict[str, list[float]]] = {}
    for row in rows:
        if not math.isnan(float(row[column])):
            shares.setdefault(row["scenario"], {}).setdefault(row["tuner"], []).append(float(row[column]))
    found = []
    for scenario, by_tuner in shares.items():
        means = {tuner: float(np.mean(values)) for tuner, values in by_tuner.items()}
        best, worst = max(means, key=means.__getitem__), min(means, key=means.__getitem__)
        if len(means) < 2:
            continue
        of_both = [row for row in rows if row["scenario"] == scenario and row["tuner"] in (best, worst)]
        pairs = paired(of_both, best, worst, column).get(scenario, []) if best != worst else [(0.0, 0.0)]
        gaps = np.array([ours - theirs for ours, theirs in pairs])
        error = float(np.std(gaps, ddof=1) / math.sqrt(len(gaps))) if len(gaps) > 1 else math.nan
        found.append(Spread(scenario, best, worst, means[best], means[best] - means[worst], error, len(gaps)))
    return found


def ranks_nobody(rows: Sequence[Mapping[str, Any]]) -> list[str]:
    """A sentence for the reader, where some scenario tells nobody apart; none where all do.

    Args:
        rows: result rows, one a run.
    """
    equal = [one for one in spreads(rows) if not one.ranks]
    if not equal:
        return []
    told = ", ".join(f"{one.scenario} ({one.distance:.3f}{_error(one)})" for one in equal)
    return [
        f"Ranks nobody here: {told}. Best and worst strategy lie within {LEAST_ROOM:g} of each other, or within "
        f"{ERRORS:g} standard errors of their distance."
    ]


def _error(spread: Spread) -> str:
    return "" if math.isnan(spread.error) else f" \u00b1 {spread.error:.3f}"
