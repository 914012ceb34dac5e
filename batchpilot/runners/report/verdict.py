"""What a leaderboard says in plain words: who wins, by how much, and whether it matters here."""

from __future__ import annotations

import math
from collections.abc import Sequence

from batchpilot.runners.report.grids import (
    HINDSIGHT,
    mark_of,
    percent,
    reference_names,
    served_out_of_turn,
    with_interval,
)
from batchpilot.runners.report.summary import OVERALL, Row

AS_GOOD = 0.01
"""Within so much goodput share two strategies are as good as each other to whoever runs a server."""

SHIPPED = "static-default"
"""The reference that servers ship with."""


def verdict(summary: Sequence[Row]) -> list[str]:
    """Sentences, the first of which names the winner.

    Args:
        summary: summary rows.
    """
    overall = [row for row in summary if row["scenario"] == OVERALL and not math.isnan(row["goodput_fraction"])]
    strategies = [row for row in overall if not row["is_reference"]]
    if not strategies:
        return ["Only references ran: there is no strategy to judge."]
    best = max(strategies, key=lambda row: float(row["goodput_fraction"]))
    references = {row["tuner"]: row for row in overall if row["is_reference"]}
    order = "".join(f" ({words})" for words in served_out_of_turn(best))
    told = [f"{best['tuner']}{order} wins: {_share(best)} of the offered tokens within the promise"]
    told[0] += f", {SHIPPED}, what servers ship, {_share(references[SHIPPED])}." if SHIPPED in references else "."
    told.append(_whether_it_matters(best, strategies, references))
    return [sentence for sentence in (*told, _against_hindsight(best, summary)) if sentence]


def _whether_it_matters(best: Row, strategies: Sequence[Row], references: dict[str, Row]) -> str:
    near = [row["tuner"] for row in strategies if row is not best and _as_good(row, best)]
    if SHIPPED in references and _as_good(references[SHIPPED], best):
        return (
            f"It does not matter here{_load(best)}: {SHIPPED} and {len(near) + 1} of {len(strategies)} strategies are "
            "within a point, and any of these will do."
        )
    if not near:
        return f"No other of the {len(strategies)} strategies is within a point of it{_load(best)}."
    return f"Within a point of it{_load(best)}: {', '.join(near)}; the choice among these matters little."


def _against_hindsight(best: Row, summary: Sequence[Row]) -> str:
    if HINDSIGHT not in reference_names(summary) or math.isnan(best[f"ratio_{HINDSIGHT}"]):
        return ""
    own = [row for row in summary if row["tuner"] == best["tuner"] and row["scenario"] != OVERALL]
    marks = [mark_of(row, HINDSIGHT) for row in own]
    won, lost = (sum(mark in kinds for mark in marks if mark) for kinds in ("▲△", "▼▽"))
    text = f"It serves {with_interval(best, f'ratio_{HINDSIGHT}')} times what the best fixed setting in hindsight does"
    return f"{text}." if len(own) == 1 else f"{text}: better in {won}, worse in {lost} of {len(own)} scenarios."


def _as_good(row: Row, best: Row) -> bool:
    return float(row["goodput_fraction"]) > float(best["goodput_fraction"]) - AS_GOOD


def _share(row: Row) -> str:
    value, low, high = (row[f"goodput_fraction{end}"] for end in ("", "_low", "_high"))
    return percent(value) + ("" if math.isnan(low) else f" [{percent(low)}\u2013{percent(high)}]")


def _load(row: Row) -> str:
    return f", at {row['load']}" if row["load"] not in ("", "mixed") else ""
