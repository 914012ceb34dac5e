"""Running many cells: in processes or on a cluster; what is finished stays on disk, so that a run can be resumed."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import Protocol

from joblib import Parallel, delayed

from batchpilot.core.files import write_atomic
from batchpilot.runners.cluster import ray_cluster
from batchpilot.runners.leaderboard.evaluation import Cell

CELLS_PER_WORKER = 4
"""Cells that a worker of a cluster is given before any of them is kept: its backend hands results over in batches."""


class Named(Protocol):
    """A scenario, of an engine or of a fleet."""

    @property
    def name(self) -> str:
        """What tables call it."""


class Runnable(Protocol):
    """What one cell computes."""

    @property
    def scenario(self) -> Named:
        """Where."""

    @property
    def seed(self) -> int:
        """Of the scenario."""

    @property
    def fingerprint(self) -> str:
        """Changes whenever the cell's numbers might."""

    def run(self) -> Cell:
        """Compute the cell."""


def cell_path(folder: Path, task: Runnable) -> Path:
    """Where a cell is kept; the name holds the fingerprint, so a stale cell is never taken for a fresh one.

    Args:
        folder: the run's folder.
        task: the cell.
    """
    return folder / "cells" / f"{task.scenario.name}--{task.seed}--{task.fingerprint}.json"


def run_tasks(
    tasks: Sequence[Runnable],
    folder: Path,
    *,
    jobs: int = 1,
    cluster: str | None = None,
    resume: bool = False,
    on_done: Callable[[Runnable, bool], None] | None = None,
    on_damage: Callable[[str], None] | None = None,
) -> list[Cell]:
    """Run every task and return the cells in the order of the tasks, whatever the number of processes.

    Args:
        tasks: what to run.
        folder: where finished cells are kept.
        jobs: processes, or workers on the cluster.
        cluster: address of a Ray cluster (see `ray_cluster`); None for this machine.
        resume: take cells that an earlier run finished with the same code and configuration.
        on_done: told each task as it finishes, and whether it was taken from disk.
        on_damage: told of each damaged cell, which is run anew.

    Raises:
        ValueError: a scenario cannot be prepared, or there is no such cluster.
        KeyboardInterrupt: stopped by hand; finished cells stay on disk.
    """
    cells: dict[int, Cell] = {}
    missing: list[int] = []
    for index, task in enumerate(tasks):
        path = cell_path(folder, task)
        kept = _kept(path, on_damage) if resume else None
        if kept is None:
            missing.append(index)
            continue
        cells[index] = kept
        if on_done:
            on_done(task, True)
    found = _run(missing, tasks, jobs) if cluster is None else _on_cluster(missing, tasks, jobs, cluster)
    for index, cell in found:
        write_atomic(cell_path(folder, tasks[index]), cell.to_json())
        cells[index] = cell
        if on_done:
            on_done(tasks[index], False)
    return [cells[index] for index in range(len(tasks))]


def _kept(path: Path, on_damage: Callable[[str], None] | None) -> Cell | None:
    """A finished cell from disk; None where there is none, or none that is whole."""
    if not path.exists():
        return None
    try:
        return Cell.from_json(path.read_text())
    except ValueError as error:
        if on_damage:
            on_damage(f"{path} is damaged ({error}); its cell is run anew")
        return None


def _run(indices: Sequence[int], tasks: Sequence[Runnable], jobs: int) -> Iterator[tuple[int, Cell]]:
    if jobs == 1 or len(indices) < 2:
        for index in indices:
            yield index, tasks[index].run()
        return
    if indices:
        # One cell here first: it fills the disk cache of compiled kernels, which every process would else compile.
        yield indices[0], tasks[indices[0]].run()
    parallel = Parallel(n_jobs=jobs, return_as="generator_unordered", batch_size=1)
    yield from parallel(delayed(_indexed)(index, tasks[index]) for index in indices[1:])


def _on_cluster(
    indices: Sequence[int], tasks: Sequence[Runnable], jobs: int, cluster: str
) -> Iterator[tuple[int, Cell]]:
    if not indices:
        return
    size = jobs * CELLS_PER_WORKER
    with ray_cluster(cluster):
        for batch in (indices[start : start + size] for start in range(0, len(indices), size)):
            yield from Parallel(n_jobs=jobs, batch_size=1)(delayed(_indexed)(index, tasks[index]) for index in batch)


def _indexed(index: int, task: Runnable) -> tuple[int, Cell]:
    return index, task.run()
