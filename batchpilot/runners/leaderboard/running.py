"""Running a leaderboard from the command line: a bar, and what is finished kept when somebody stops it."""

from __future__ import annotations

from pathlib import Path

import typer

from batchpilot.runners.leaderboard.board import Board, Outcome, run_leaderboard
from batchpilot.runners.leaderboard.jobs import Runnable, cell_path
from batchpilot.runners.progress import ToldProgress


def refuse_to_overwrite(folder: Path, told: bool) -> None:
    """Stop before results are lost that nobody said may be replaced.

    Args:
        folder: of the results.
        told: whether somebody said so.

    Raises:
        ValueError: there are results, and nobody did.
    """
    if (folder / "results.csv").exists() and not told:
        raise ValueError(f"{folder} holds results already; add --overwrite or --resume, or give another --out")


def run_with_progress(board: Board, folder: Path, jobs: int, cluster: str | None, resume: bool) -> Outcome:
    """Run a leaderboard with a bar; stopped by hand, it says how to go on.

    Args:
        board: what is compared.
        folder: where finished cells are kept.
        jobs: processes, or workers of the cluster.
        cluster: address of a Ray cluster; None for this machine.
        resume: take finished cells of an earlier run.

    Raises:
        ValueError: a scenario cannot be prepared, or no strategy got through.
        typer.Exit: stopped by hand.
    """
    tasks = board.tasks()
    try:
        with ToldProgress() as progress:
            bar = progress.add_task("running", total=len(tasks))

            def advance(task: Runnable, from_disk: bool) -> None:
                kept = " (kept)" if from_disk else ""
                progress.update(bar, advance=1, description=f"{task.scenario.name} seed {task.seed}{kept}")

            def tell(damage: str) -> None:
                progress.console.print(damage, style="yellow", markup=False, soft_wrap=True)

            return run_leaderboard(
                board, folder, jobs=jobs, cluster=cluster, resume=resume, on_done=advance, on_damage=tell
            )
    except KeyboardInterrupt:
        finished = sum(cell_path(folder, task).exists() for task in tasks)
        typer.secho(
            f"stopped: {finished} of {len(tasks)} cells are kept in {folder}; the same command with --resume goes on",
            err=True,
            fg=typer.colors.YELLOW,
        )
        raise typer.Exit(130) from None
