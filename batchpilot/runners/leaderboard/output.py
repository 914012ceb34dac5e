"""What becomes of a finished leaderboard: its files, its tables, and its verdict against a baseline."""

from __future__ import annotations

import shlex
import sys
import time
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import typer
from rich.console import Console

from batchpilot.core.files import json_text
from batchpilot.core.limits import Limits
from batchpilot.runners.leaderboard.board import Leaderboard, Outcome
from batchpilot.runners.leaderboard.evaluation import Row
from batchpilot.runners.leaderboard.regression import Regression, regression_grid
from batchpilot.runners.options import stdout_console
from batchpilot.runners.pasted import show_pasted
from batchpilot.runners.report.ranking import ranks_nobody
from batchpilot.runners.report.summary import summarise, summarise_families, write_csv
from batchpilot.runners.report.tables import leaderboard_tables, short_tables, tables
from batchpilot.runners.report.verdict import verdict
from batchpilot.runners.selection import parse_limits
from batchpilot.runners.stated import stated_grid
from batchpilot.runners.torch.leaderboard import TorchLeaderboard


@dataclass(frozen=True)
class Result:
    """What a leaderboard found, ready to be told.

    Attributes:
        board: what was compared.
        outcome: of its runs.
        summary: figures by strategy, of each scenario and over all.
        notes: what a reader must know.
    """

    board: Leaderboard
    outcome: Outcome
    summary: list[Row]
    notes: list[str]

    @classmethod
    def of(cls, board: Leaderboard, outcome: Outcome, notes: Sequence[str]) -> Result:
        """Summarise what ran.

        Args:
            board: what was compared.
            outcome: of its runs.
            notes: what a reader must know that the runs do not say.
        """
        left_out = [f"Left out: {error}." for error in outcome.failed.values()]
        told = [*notes, *left_out, *too_long_notes(outcome.rows), *ranks_nobody(outcome.rows)]
        return cls(board, outcome, summarise(outcome.rows), told)

    def write(self, folder: Path) -> None:
        """Write results.csv, summary.csv and report.html.

        Args:
            folder: where.

        Raises:
            OSError: a file cannot be written.
        """
        from batchpilot.runners.report.writing import write_report  # matplotlib would slow down every command

        write_csv(folder / "results.csv", self.outcome.rows)
        write_csv(folder / "summary.csv", self.summary)
        write_report(
            folder / "report.html",
            title=f"Which batching strategy keeps its promises? Track {self.board.track}",
            rows=self.outcome.rows,
            summary=self.summary,
            curves=self.outcome.curves,
            provenance=self.outcome.origin
            | _engine(self.board)
            | {"command": shlex.join(["batchpilot", *sys.argv[1:]])},
            notes=[*self.notes, *_best_notes(self.board, self.outcome)],
        )

    def show(self, folder: Path, started: float, *, full: bool) -> None:
        """Print the tables, what a reader must know, and where the files are.

        Args:
            folder: of the files.
            started: when the runs began, by `time.monotonic`.
            full: whether to print every table.
        """
        _show(self.outcome.rows, self.summary, full=full)
        console = stdout_console()
        for note in self.notes:
            console.print(note)
        spent = time.monotonic() - started
        console.print(f"{len(self.outcome.rows)} runs in {spent:.0f} s: {folder}/results.csv, summary.csv, report.html")

    def show_json(self) -> None:
        """Print the summary for machines; what was left out goes to standard error."""
        for error in self.outcome.failed.values():
            typer.secho(f"left out: {error}", err=True, fg=typer.colors.YELLOW)
        typer.echo(json_text(self.summary, indent=1))


def show_gate(worse: Sequence[Regression], baseline: Path, *, quiet: bool) -> None:
    """Tell whether the figures are worse than a baseline's.

    Args:
        worse: those that are.
        baseline: its file.
        quiet: whether to say nothing where none is.

    Raises:
        typer.Exit: some are, with status 1.
    """
    if worse:
        for table in tables(regression_grid(worse)):
            Console(stderr=True, width=120).print(table)
        raise typer.Exit(1)
    if not quiet:
        typer.echo(f"no regression against {baseline}")


def _show(rows: Sequence[Row], summary: Sequence[Row], *, full: bool) -> None:
    console = stdout_console()
    for sentence in verdict(summary):
        console.print(sentence, style="bold", highlight=False)
    console.print(*tables(stated_grid(rows, latency=full)))
    for table in leaderboard_tables(summary, summarise_families(rows)) if full else short_tables(summary):
        console.print(table)
    if len({row["scenario"] for row in rows}) == 1:
        best = next((row for row in summary if not row["is_reference"]), None)
        ended = next((row["limits"] for row in rows if best and row["tuner"] == best["tuner"] and row["limits"]), None)
        if best is not None and ended is not None:
            console.print(f"What {best['tuner']} ended with, to paste:", highlight=False)
            show_pasted(parse_limits(ended))


def _engine(board: Leaderboard) -> dict[str, str]:
    """What ran, where that is not the simulation."""
    return dict(board.backend.origin) if isinstance(board, TorchLeaderboard) else {}


def too_long_notes(rows: Sequence[Row]) -> list[str]:
    """A sentence for each scenario in which requests failed whatever the strategy: no engine could have served them.

    Args:
        rows: result rows.
    """
    failed: dict[str, int] = {}
    requests: dict[str, int] = {}
    for row in rows:
        name = row["scenario"]
        failed[name] = min(failed.get(name, row["failed"]), row["failed"])
        requests[name] = max(requests.get(name, 0), row["requests"])
    return [
        f"{name}: at least {count} of {requests[name]} requests failed under every strategy: longer than the model or "
        "its KV cache allows."
        for name, count in failed.items()
        if count
    ]


def _best_notes(board: Leaderboard, outcome: Outcome) -> list[str]:
    """What `static-best` was in each scenario at the first seed, so that a reader can try it."""
    found = []
    for chosen in board.scenarios:
        best = outcome.best.get((chosen.name, board.first_seed))
        if best is not None:
            limits = ", ".join(f"{name} {value}" for name, value in Limits.from_dict(best).in_force().items())
            found.append(f"static-best on {chosen.name} (seed {board.first_seed}): {limits}.")
    return found
