"""Which strategies are not beaten in everything at once: promises, latency, energy and money."""

from __future__ import annotations

import math
from collections.abc import Sequence

from batchpilot.runners.report.grids import Grid, number, out_of_turn, percent, ranked, ranked_cells
from batchpilot.runners.report.summary import OVERALL, Row

AIMS: tuple[tuple[str, bool], ...] = (
    ("goodput_fraction", True),
    ("ttft_p95_ms", False),
    ("joules_per_token", False),
    ("usd_per_million", False),
)
"""Columns that are weighed, and whether more is better."""


def unbeaten(rows: Sequence[Row]) -> list[Row]:
    """The rows that no other is at least as good as in every aim and better than in one.

    Args:
        rows: to compare; what is not known of one counts as the worst.
    """
    worth = [tuple(_worth(row, column, more) for column, more in AIMS) for row in rows]
    return [
        row
        for row, own in zip(rows, worth, strict=True)
        if not any(other != own and all(a >= b for a, b in zip(other, own, strict=True)) for other in worth)
    ]


def pareto_grid(summary: Sequence[Row], scenario: str = OVERALL) -> Grid:
    """Promises kept against latency, energy and money.

    Args:
        summary: summary rows.
        scenario: which scenario's; all of them together by default.
    """
    listed = ranked(summary, scenario)
    front = unbeaten([row for _, row in listed if not row["is_reference"]])
    rows = []
    for rank, row in listed:
        figures = [
            number(row["goodput_fraction"], 3),
            number(row["ttft_p95_ms"]),
            number(row["joules_per_token"], 2),
            number(row["usd_per_million"], 2),
            percent(row["refused_fraction"]),
        ]
        rows.append(ranked_cells(row, rank, [*figures, "yes" if row in front else ""], best=row in front))
    columns = (
        *("Strategy", "Goodput\nshare", "TTFT p95,\nms", "J a token\nin time", "$ a million\nin time"),
        *("refused", "not beaten\nin all four"),
    )
    caption = (
        "Energy and money of the whole run over the output tokens that were served in time. Energy is a model from the "
        "device's published power, money its list price. Not beaten: no strategy is as good in all four and better in "
        f"one.{out_of_turn(summary)}"
    )
    where = "" if scenario == OVERALL else f" {scenario}"
    return Grid(f"Promises, latency, energy, money: who is not beaten?{where}", columns, tuple(rows), caption)


def _worth(row: Row, column: str, more: bool) -> float:
    value = float(row[column])
    if math.isnan(value):
        return -math.inf
    return value if more else -value
