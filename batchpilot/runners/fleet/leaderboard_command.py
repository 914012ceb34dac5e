"""What `batchpilot leaderboard` does for fleets: run, print two tables, write results.csv, summary.csv, report.html."""

from __future__ import annotations

import shlex
import sys
import time
from collections.abc import Sequence
from pathlib import Path

import typer

from batchpilot.configs.fleet_scenario import fleet_scenario, fleet_scenario_names, load_fleet_scenario
from batchpilot.core.files import json_text, write_atomic
from batchpilot.runners.fleet.board import FleetLeaderboard
from batchpilot.runners.fleet.summary import fleet_grid, fleet_verdict, places_grid, summarise_fleets
from batchpilot.runners.leaderboard.board import Outcome
from batchpilot.runners.leaderboard.running import run_with_progress
from batchpilot.runners.options import stdout_console
from batchpilot.runners.report.page import definitions, element, page, table
from batchpilot.runners.report.summary import OVERALL, Row, write_csv
from batchpilot.runners.report.tables import tables

ENGINE_ONLY = (
    *("track", "config", "traces", "trace", "trace_format", "columns", "rate", "start_s", "duration_s"),
    *("skip_bad_rows", "device", "catalogue", "model", "tensor_parallel", "backend", "dtype", "threads"),
    *("kv_capacity_tokens", "parameters", "ttft_ms", "tpot_ms", "prefix_cache", "baseline", "save"),
)
"""Options of the leaderboard of engines that say nothing of fleets, whose files say it."""


def board_of(
    scenarios: Sequence[str] | None, strategies: tuple[str, ...], seeds: int, first_seed: int
) -> FleetLeaderboard:
    """The leaderboard that is meant.

    Args:
        scenarios: names or files; none for all catalogued ones.
        strategies: as typed.
        seeds: of each scenario.
        first_seed: the first of them.

    Raises:
        ValueError: no such scenario or strategy, or a mistake in a file.
        OSError: a file cannot be read.
    """
    names = list(scenarios or fleet_scenario_names())
    known = fleet_scenario_names()
    found = [fleet_scenario(one) if one in known else load_fleet_scenario(one) for one in names]
    return FleetLeaderboard(tuple(found), strategies, seeds, first_seed)


def run_fleets(
    board: FleetLeaderboard, folder: Path, *, jobs: int, cluster: str | None, resume: bool, as_json: bool, full: bool
) -> None:
    """Run a leaderboard of fleets, show and write it.

    Args:
        board: what is compared.
        folder: of the files.
        jobs: processes.
        cluster: a Ray cluster's address.
        resume: whether to take what an earlier run finished.
        as_json: print the summary as JSON.
        full: print every scenario's table.
    """
    started = time.monotonic()
    outcome = run_with_progress(board, folder, jobs, cluster, resume)
    summary = summarise_fleets(outcome.rows)
    write_csv(folder / "results.csv", outcome.rows)
    write_csv(folder / "summary.csv", summary)
    write_atomic(folder / "report.html", _page(board, outcome, summary))
    if as_json:
        typer.echo(json_text(summary, indent=1))
        return
    console = stdout_console()
    console.print(fleet_verdict(summary), style="bold", highlight=False)
    scopes = [*(one.name for one in board.scenarios), OVERALL] if full else [OVERALL]
    for grid in (*(fleet_grid(summary, scope) for scope in scopes), places_grid(summary)):
        for shown in tables(grid):
            console.print(shown)
    spent = time.monotonic() - started
    console.print(f"{len(outcome.rows)} runs in {spent:.0f} s: {folder}/results.csv, summary.csv, report.html")


def _page(board: FleetLeaderboard, outcome: Outcome, summary: Sequence[Row]) -> str:
    grids = [fleet_grid(summary), places_grid(summary), *(fleet_grid(summary, one.name) for one in board.scenarios)]
    about = {one.name: one.description for one in board.scenarios}
    origin = outcome.origin | {"command": shlex.join(["batchpilot", *sys.argv[1:]])}
    return page(
        "Which fleet keeps its promises, at what cost?",
        element("h1", "Which fleet keeps its promises, at what cost?"),
        element("p", fleet_verdict(summary), "lead"),
        *map(table, grids),
        element("h2", "Scenarios"),
        definitions(about),
        element("h2", "Origin"),
        definitions({name: _text(value) for name, value in origin.items()}),
    )


def _text(value: object) -> str:
    return ", ".join(map(str, value)) if isinstance(value, list) else str(value)
