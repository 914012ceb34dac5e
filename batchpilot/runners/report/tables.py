"""The leaderboard's tables for a terminal, readable at 120 columns and without colour."""

from __future__ import annotations

import io
from collections.abc import Iterable, Sequence

from rich import box
from rich.console import Console
from rich.table import Table
from rich.text import Text

from batchpilot.runners.leaderboard.comparison_grids import family_grid
from batchpilot.runners.report.grids import Cell, Grid, behaviour_grid, refusal_grid, results_grid, scenario_grid
from batchpilot.runners.report.pareto import pareto_grid
from batchpilot.runners.report.short import places_grid, winners_grid
from batchpilot.runners.report.summary import Row

WIDTH = 120
"""Columns of the terminal that tables are made for."""

SHORT_WIDTH = 100
"""The same of the tables that are shown without being asked for."""

_FOLDED = 26
"""Characters that a table which is too wide folds words to, at most, before it is split."""


def short_tables(summary: Sequence[Row]) -> list[Table]:
    """The two tables that answer most questions: who is how good, and where, or with one scenario at what price.

    Args:
        summary: summary rows.
    """
    return [table for grid in (winners_grid(summary), places_grid(summary)) for table in tables(grid, SHORT_WIDTH)]


def leaderboard_tables(summary: Sequence[Row], families: Sequence[Row] = ()) -> list[Table]:
    """Everything a run has to say on a terminal: per scenario, refusals, behaviour, and the results last.

    The results come last because the end of the output is what stays in view.

    Args:
        summary: summary rows.
        families: what `summarise_families` gave; nothing is shown by family without them.
    """
    grids = [scenario_grid(summary), refusal_grid(summary), pareto_grid(summary), behaviour_grid(summary)]
    grids.append(results_grid(summary))
    if families:
        grids[1:1] = [family_grid(families, summary)]
    return [table for grid in grids for table in tables(grid)]


def tables(grid: Grid, width: int = WIDTH) -> list[Table]:
    """A grid as terminal tables: one, or several with the first column repeated where one is too wide even folded.

    Args:
        grid: what to show.
        width: columns of the terminal.
    """
    parts = []
    widths = _folded(grid, width)
    for shown in _parts(widths, width):
        table = Table(
            title=Text(grid.title, style="bold"),
            caption=Text(grid.caption, style="dim") if grid.caption else None,
            box=box.SIMPLE_HEAD,
            pad_edge=False,
            collapse_padding=True,
            title_justify="left",
            caption_justify="left",
        )
        figures = any(grid.columns)  # else the first column tells what the second is, in words
        for column in shown:
            table.add_column(
                Text(grid.columns[column]),
                justify="right" if column and figures else "left",
                vertical="bottom" if figures else "top",
                max_width=widths[column] - 2,
            )
        for row in grid.rows:
            table.add_row(*(_text(row[column]) for column in shown))
        parts.append(table)
    return parts


def render(shown: Iterable[Table], *, width: int = WIDTH) -> str:
    """Tables as plain text without colour, for files and tests.

    Args:
        shown: the tables, in order.
        width: columns of the imagined terminal.
    """
    console = Console(file=io.StringIO(), width=width, color_system=None, legacy_windows=False)
    with console.capture() as captured:
        for table in shown:
            console.print(table)
    return "\n".join(line.rstrip() for line in captured.get().splitlines()) + "\n"


def _widths(grid: Grid, separator: str | None = "\n") -> list[int]:
    """Characters of each column's longest line, or without a separator its longest word, with the space after it."""
    texts = [[header, *(row[column].text for row in grid.rows)] for column, header in enumerate(grid.columns)]
    return [max((len(one) for text in column for one in text.split(separator)), default=0) + 2 for column in texts]


def _folded(grid: Grid, width: int) -> list[int]:
    """Characters of each column where words fold, the widest first, as far as they must."""
    widths, words = _widths(grid), _widths(grid, separator=None)
    floors = [
        widths[0],
        *(min(whole, max(_FOLDED + 2, word)) for whole, word in zip(widths[1:], words[1:], strict=True)),
    ]
    while sum(widths) > width and widths != floors:
        widest = max(range(len(widths)), key=lambda column: widths[column] * (widths[column] > floors[column]))
        widths[widest] -= 1
    return widths


def _parts(widths: Sequence[int], width: int) -> list[list[int]]:
    """The columns of each table: as many as fit beside the first."""
    parts = [[0]]
    for column in range(1, len(widths)):
        if len(parts[-1]) > 1 and sum(widths[shown] for shown in parts[-1]) + widths[column] > width:
            parts.append([0])
        parts[-1].append(column)
    return parts


def _text(cell: Cell) -> Text:
    style = "bold" if cell.best else "dim" if cell.reference else ""
    return Text(cell.text, style=style)
