"""Learning curves as a chart: how much a policy gains on unseen runs as it trains, over seeds."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING

import numpy as np
from numpy.typing import NDArray

from batchpilot.runners.report.statistics import estimate
from batchpilot.runners.report.svg import INK, MUTED, drawing, to_svg

if TYPE_CHECKING:
    from batchpilot.agents.training.progress import Point


def learning_curves(points: Sequence[Point]) -> str:
    """Gain in goodput share over the base on the validation runs, by decisions.

    Seeds are thin lines; where there are several, their interquartile mean is a thick one with its 95 % interval.

    Args:
        points: of every seed.

    Returns:
        One `<svg>` element.
    """
    from matplotlib.figure import Figure

    seeds = list(dict.fromkeys(point.seed for point in points))
    with drawing():
        figure = Figure(figsize=(8.4, 4.2))
        axes = figure.add_subplot()
        for seed in seeds:
            own = [point for point in points if point.seed == seed]
            axes.plot([p.timesteps for p in own], [_gain(p) for p in own], color=MUTED, linewidth=0.9)
        if len(seeds) > 1:
            steps, middle, low, high = _over_seeds(points)
            axes.fill_between(steps, low, high, color=MUTED, alpha=0.3, linewidth=0, label="95 % interval over seeds")
            axes.plot(steps, middle, color=INK, linewidth=2, label=f"interquartile mean of {len(seeds)} seeds")
        axes.axhline(0, color=INK, linewidth=1, linestyle=(0, (5, 2)), label="base limits, never moved")
        axes.set_xlabel("Decisions taken in training")
        axes.set_ylabel("Gain in goodput share on validation")
        axes.set_title(title := "Does training pay on devices it has not seen?")
        axes.legend(loc="best")
        return to_svg(figure, "learning", title)


def _over_seeds(
    points: Sequence[Point],
) -> tuple[NDArray[np.float64], NDArray[np.float64], NDArray[np.float64], NDArray[np.float64]]:
    """Decisions, interquartile mean and interval at every segment that all seeds reached."""
    segments = sorted({point.segment for point in points})
    seeds = {point.seed for point in points}
    rows = []
    for segment in segments:
        there = [point for point in points if point.segment == segment]
        if len(there) == len(seeds):
            found = estimate([[_gain(point) for point in there]])
            rows.append((float(there[0].timesteps), found.value, found.low, found.high))
    steps, middle, low, high = np.array(rows).reshape(-1, 4).T
    return steps, middle, low, high


def _gain(point: Point) -> float:
    return float(point.validation["gains"]["base"])
