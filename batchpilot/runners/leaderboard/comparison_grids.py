"""Tables of who beats whom: wins and losses by family of scenarios, and how sure an improvement is."""

from __future__ import annotations

import math
from collections.abc import Sequence

from batchpilot.runners.report.grids import (
    ABSENT,
    HINDSIGHT,
    Cell,
    Grid,
    label,
    mark_of,
    number,
    reference_names,
    with_interval,
)
from batchpilot.runners.report.summary import OVERALL, Row


def family_grid(families: Sequence[Row], summary: Sequence[Row], against: str = HINDSIGHT) -> Grid:
    """Goodput share of every strategy in each family of scenarios, with the scenarios it won and lost there.

    Args:
        families: what `summarise_families` gave.
        summary: summary rows, whose rows over all scenarios say the order.
        against: the reference that a scenario is won or lost against; without rows nothing is counted.
    """
    ranked = [row for row in summary if row["scenario"] == OVERALL]
    names = [row["tuner"] for row in sorted(ranked, key=lambda row: bool(row["is_reference"]))]
    references = set(reference_names(summary))
    by_place = {(row["family"], row["tuner"]): row for row in families}
    lines = []
    for family in dict.fromkeys(row["family"] for row in families):
        here = {name: by_place[family, name] for name in names if (family, name) in by_place}
        online = [row["goodput_fraction"] for name, row in here.items() if name not in references]
        best = max((share for share in online if not math.isnan(share)), default=math.nan)
        cells = [Cell(str(family))]
        for name in names:
            if name not in here:
                cells.append(Cell(ABSENT, reference=name in references))
                continue
            share, reference = here[name]["goodput_fraction"], name in references
            text = number(share, 3)
            if against in references and name != against:
                won, lost = _won_and_lost(summary, family, name, against)
                text = f"{text} {mark_of(here[name], against)} {won}:{lost}"
            cells.append(Cell(text, not reference and share == best, reference))
        lines.append(tuple(cells))
    columns = ("Family", *(label(name, name in references).replace("-", "-\n", 1) for name in names))
    marked = f"; mark and scenarios won:lost against {against}, settled or not" if against in references else ""
    caption = f"Interquartile mean over the family's runs{marked}. Best strategy bold, references † set apart."
    return Grid(
        "In which families of load does each strategy win or lose? Goodput share", columns, tuple(lines), caption
    )


def improvement_grid(summary: Sequence[Row], scenario: str = OVERALL) -> Grid:
    """Probability that a strategy does better than each reference on the same requests, and the gap it closes.

    Args:
        summary: summary rows.
        scenario: which scenario's; all of them together by default.
    """
    references = reference_names(summary)
    gap = any("gap_closed" in row for row in summary)
    rows = []
    for row in (row for row in summary if row["scenario"] == scenario):
        reference = bool(row["is_reference"])
        texts = [ABSENT if name == row["tuner"] else with_interval(row, f"improves_on_{name}") for name in references]
        texts += [with_interval(row, "gap_closed")] if gap else []
        rows.append(tuple(Cell(text, reference=reference) for text in (label(row["tuner"], reference), *texts)))
    columns = ("Strategy", *(f"better than\n{name}" for name in references), *(["gap closed"] if gap else []))
    caption = (
        "Share of the runs that do better than the reference on the same requests, a tie counting one half; 0.5 is no "
        "difference." + (" Gap closed: 0 is static-best, 1 is clairvoyant." if gap else "")
    )
    return Grid("How sure is an improvement?", columns, tuple(rows), caption)


def _won_and_lost(summary: Sequence[Row], family: object, name: str, against: str) -> tuple[int, int]:
    rows = [row for row in summary if (row["family"], row["tuner"]) == (family, name) and row["scenario"] != OVERALL]
    marks = [mark_of(row, against) for row in rows]
    return sum(mark in ("▲", "△") for mark in marks), sum(mark in ("▼", "▽") for mark in marks)
