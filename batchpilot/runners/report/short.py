"""The leaderboard's two tables that are shown without being asked for."""

from __future__ import annotations

import math
from collections.abc import Sequence

from batchpilot.runners.report.grids import (
    HINDSIGHT,
    Cell,
    Grid,
    label,
    mark_of,
    number,
    out_of_turn,
    percent,
    ranked,
    ranked_cells,
    reference_names,
    with_interval,
)
from batchpilot.runners.report.summary import OVERALL, Row
from batchpilot.runners.report.verdict import SHIPPED

MOST_SCENARIOS = 8
"""More do not fit beside each other, and are shown as families."""


def winners_grid(summary: Sequence[Row]) -> Grid:
    """Who is how good, and what is lost: the best first.

    Args:
        summary: summary rows.
    """
    against = [name for name in (SHIPPED, HINDSIGHT) if name in reference_names(summary)]
    rows = []
    for rank, row in ranked(summary):
        ratios = [f"{number(row[f'ratio_{name}'], 3)} {mark_of(row, name)}".rstrip() for name in against]
        shares = (1.0 - row["goodput_fraction"], row["refused_fraction"], row["refused_worst_quarter"])
        figures = [with_interval(row, "goodput_fraction"), *map(percent, shares), *ratios]
        rows.append(ranked_cells(row, rank, figures, best=rank == "1"))
    columns = (
        "Strategy",
        "Goodput share\n[95 % interval]",
        "Lost",
        "Refused\nrequests",
        "of the worst\nquarter",
        *(f"÷ {name}".replace("-", "-\n") for name in against),
    )
    caption = "Share of the offered output tokens that kept the promise. Quarters are of prompt length. References †."
    return Grid("Which strategy keeps its promises?", columns, tuple(rows), caption + out_of_turn(summary))


def places_grid(summary: Sequence[Row]) -> Grid:
    """Where each strategy loses: by scenario, or by family of many; with one scenario, latencies and limits instead.

    Args:
        summary: summary rows.
    """
    scenarios = list(dict.fromkeys(row["scenario"] for row in summary if row["scenario"] != OVERALL))
    if len(scenarios) == 1:
        return _price_grid(summary)
    by_family = len(scenarios) > MOST_SCENARIOS
    key = "family" if by_family else "scenario"
    places = list(dict.fromkeys(str(row[key]) for row in summary if row["scenario"] != OVERALL))
    rows = []
    for rank, row in ranked(summary):
        lost = [_lost(summary, key, place, row["tuner"]) for place in places]
        rows.append(ranked_cells(row, rank, [percent(share) for share in lost], best=rank == "1"))
    columns = ("Strategy", *(place.replace("-", "-\n", 1) for place in places))
    of = "families of scenarios, means" if by_family else "scenarios"
    return Grid("Where does it lose? Share of the offered tokens", columns, tuple(rows), f"By {of}. References †.")


def _lost(summary: Sequence[Row], key: str, place: str, tuner: str) -> float:
    found = [row for row in summary if row["scenario"] != OVERALL and (row[key], row["tuner"]) == (place, tuner)]
    shares = [1.0 - row["goodput_fraction"] for row in found if not math.isnan(row["goodput_fraction"])]
    return math.fsum(shares) / len(shares) if shares else math.nan


def _price_grid(summary: Sequence[Row]) -> Grid:
    rows = []
    for _, row in ranked(summary):
        latencies = [number(row[column]) for column in ("ttft_p95_ms", "tpot_p95_ms", "refusal_p95_ms")]
        limits = str(row["limits"]).replace(",", ", ") if row["limits"] != "mixed" else "differ by seed"
        texts = (label(row["tuner"], bool(row["is_reference"])), *latencies, limits)
        rows.append(tuple(Cell(text, reference=bool(row["is_reference"])) for text in texts))
    columns = ("Strategy", "TTFT\np95 ms", "TPOT\np95 ms", "told no\np95 ms", "Limits at the end")
    return Grid("At what price, and with which limits?", columns, tuple(rows))
