"""How strategies and references are told apart in every chart of a report: colour, marker, dashes; all read in grey."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from batchpilot.runners.report.grids import reference_names
from batchpilot.runners.report.summary import Row

_COLOURS = ("#0072b2", "#d55e00", "#009e73", "#cc79a7", "#e69f00", "#56b4e9", "#8c6d31", "#7f7f7f")
_MARKERS = ("o", "s", "^", "D", "v", "P", "X", "*")
_DASHES = ((0, (5, 2)), (0, (1, 1.5)), (0, (5, 2, 1, 2)), (0, (9, 3)), (0, (3, 1, 1, 1, 1, 1)))


def strategies_of(summary: Sequence[Row]) -> list[str]:
    """Names of what competes, in the order of the summary.

    Args:
        summary: summary rows.
    """
    return list(dict.fromkeys(row["tuner"] for row in summary if not row["is_reference"]))


def style_of(summary: Sequence[Row], name: str) -> dict[str, Any]:
    """Colour and marker of a strategy: the same in every chart of a report.

    Args:
        summary: summary rows.
        name: of the strategy.
    """
    place = sorted(strategies_of(summary)).index(name)
    return {"color": _COLOURS[place % len(_COLOURS)], "marker": _MARKERS[place % len(_MARKERS)], "markersize": 6}


def dashes_of(summary: Sequence[Row], reference: str) -> tuple[int, tuple[float, ...]]:
    """Line style of a reference.

    Args:
        summary: summary rows.
        reference: its name.
    """
    return _DASHES[reference_names(summary).index(reference) % len(_DASHES)]
