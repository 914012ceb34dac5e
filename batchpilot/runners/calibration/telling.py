"""A finished calibration on the terminal, and its parameters in a file."""

from __future__ import annotations

from datetime import UTC, datetime
from pathlib import Path

import typer
import yaml

from batchpilot.core.files import write_atomic
from batchpilot.runners.calibration.calibrating import Calibration
from batchpilot.runners.calibration.grids import models_grid, parameters_grid, verdict
from batchpilot.runners.options import stdout_console
from batchpilot.runners.report.tables import WIDTH, tables

READERS = (
    "# Step latency: --parameters of batchpilot plan, tune, simulate, leaderboard, compare, serve, gateway reads it.\n"
)


def show(found: Calibration) -> None:
    """Print the tables, what to know, and how far to trust it.

    Args:
        found: what was calibrated.
    """
    console = stdout_console()
    for grid in (models_grid(found), parameters_grid(found)):
        for table in tables(grid):
            console.print(table)
    for text in found.fit.problems:
        typer.secho(f"problem: {text}", fg=typer.colors.RED)
    for text in (*found.fit.notes, *found.remarks):
        typer.echo(f"note: {text}")
    bounds = f"steps outside {found.dropped.lowest_ms:g} to {found.dropped.highest_ms:g} ms or without work"
    typer.echo(f"dropped ({bounds}): {found.dropped}")
    typer.secho(verdict(found), bold=True)


def write_parameters(path: Path, found: Calibration) -> None:
    """Write what other commands read.

    Args:
        path: YAML file.
        found: what was calibrated.

    Raises:
        OSError: it cannot be written.
    """
    today = datetime.now(UTC).date().isoformat()
    entry = yaml.safe_dump(found.to_entry(today), sort_keys=False, allow_unicode=True, width=WIDTH)
    write_atomic(path, READERS + entry)
