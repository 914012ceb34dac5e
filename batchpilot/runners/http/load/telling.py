"""A load test's results, or those that were read, on the terminal and in a folder."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import typer

from batchpilot.core.files import json_text
from batchpilot.runners.http.load.columns import Columns
from batchpilot.runners.http.load.importing import Imported
from batchpilot.runners.http.load.report import column_grid, findings, notes
from batchpilot.runners.options import stdout_console
from batchpilot.runners.report.tables import tables


def show_imported(found: Imported, out: Path | None, *, as_json: bool) -> None:
    """Tell results that were read, and write them where a folder is named.

    Args:
        found: the results.
        out: the folder.
        as_json: whether machines read it.
    """
    files = found.write(out) if out is not None else []
    if as_json:
        typer.echo(json_text(found.results(), indent=2))
        return
    console = stdout_console()
    console.print(*tables(found.grid))
    for line in [*found.notes, *map(str, files)]:
        console.print(line, highlight=False)


def show_columns(beside: Columns, asked: Mapping[str, Any], seed: int, *, as_json: bool) -> None:
    """Tell what became of the requests.

    Args:
        beside: wherever they were served.
        asked: what the command was told.
        seed: of the workload.
        as_json: whether machines read it.
    """
    if as_json:
        typer.echo(json_text(findings(beside, asked, seed), indent=2))
        return
    console = stdout_console()
    console.print(*tables(column_grid(beside)))
    for note in notes(beside.result):
        console.print(note, highlight=False)
