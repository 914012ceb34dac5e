"""A leaderboard: which strategies, on which scenarios, at which seeds; run, summarised and written to a folder."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Protocol

from batchpilot.configs.scenario import Scenario
from batchpilot.configs.tuner import TunerConfig
from batchpilot.core.files import write_json
from batchpilot.core.names import lookup
from batchpilot.core.provenance import provenance
from batchpilot.runners.leaderboard.evaluation import Cell, Curves, Row, Task
from batchpilot.runners.leaderboard.jobs import Runnable, run_tasks
from batchpilot.runners.leaderboard.strategies import STATIC_BEST, STATIC_SUITE, check_strategies

TRACK = "default"
"""Stands for the track's own strategies in a list of names."""

_BATCH_TUNERS = ("static-8", "static-default", "aimd", "dynamic", "hybrid", STATIC_SUITE, STATIC_BEST)

TRACK_TUNERS: dict[str, tuple[str, ...]] = {
    "batch": _BATCH_TUNERS,
    "limits": ("model-based", "policy-limits", "queue-tokens-online", *_BATCH_TUNERS),
    "guarded": ("model-based", "policy-guarded", "guarded-adaptive", "guarded-default", *_BATCH_TUNERS),
}
"""Strategies that compete in a track when none are named."""


@dataclass(frozen=True)
class Leaderboard:
    """What is to be compared.

    Attributes:
        scenarios: where.
        track: which limits the references may set.
        tuners: strategies as typed; "default", or none at all, stands for the track's own.
        seeds: number of seeds.
        first_seed: the first of them; the others follow it.
        config: the tuners' configuration.
    """

    scenarios: tuple[Scenario, ...]
    track: str = "guarded"
    tuners: tuple[str, ...] = ()
    seeds: int = 3
    first_seed: int = 0
    config: TunerConfig = field(default_factory=TunerConfig)

    def __post_init__(self) -> None:
        lookup(TRACK_TUNERS, self.track, "track")
        check_strategies(self.strategies)
        if self.seeds < 1:
            raise ValueError(f"seeds is {self.seeds}; at least 1 is needed, and 3 for an interval worth reading")
        if not self.scenarios:
            raise ValueError("no scenarios to run")

    @property
    def strategies(self) -> tuple[str, ...]:
        """The strategies that run, without doubles."""
        named = self.tuners or (TRACK,)
        return tuple(
            dict.fromkeys(one for name in named for one in (TRACK_TUNERS[self.track] if name == TRACK else (name,)))
        )

    def content(self) -> dict[str, Any]:
        """What is compared, as plain data: what a configuration hash is made of."""
        return {
            "scenarios": [scenario.model_dump() for scenario in self.scenarios],
            "track": self.track,
            "tuners": self.strategies,
            "tuner_config": self.config.to_dict(),
        }

    def tasks(self) -> list[Task]:
        """One task for every scenario and seed, in order."""
        return [
            Task(scenario, seed, self.track, self.strategies, self.config)
            for scenario in self.scenarios
            for seed in range(self.first_seed, self.first_seed + self.seeds)
        ]


class Board(Protocol):
    """What `run_leaderboard` needs of a leaderboard, of engines or of fleets."""

    @property
    def track(self) -> str:
        """What may be decided."""

    @property
    def seeds(self) -> int:
        """Number of seeds."""

    @property
    def first_seed(self) -> int:
        """The first of them."""

    def content(self) -> dict[str, Any]:
        """What is compared, as plain data."""

    def tasks(self) -> Sequence[Runnable]:
        """One task for every scenario and seed, in order."""


@dataclass(frozen=True)
class Outcome:
    """What a leaderboard found.

    Attributes:
        rows: one a scenario, strategy and seed.
        curves: over time at the first seed, by (scenario, strategy).
        best: limits of `static-best` by (scenario, seed).
        origin: seeds, configuration hash, git revision and versions.
        failed: what each tuner of the user's own raised, the first time; it has no rows.
    """

    rows: list[Row]
    curves: dict[tuple[str, str], Curves]
    best: dict[tuple[str, int], dict[str, Any]]
    origin: dict[str, Any]
    failed: dict[str, str] = field(default_factory=dict)


def run_leaderboard(
    board: Board,
    folder: Path,
    *,
    jobs: int = 1,
    cluster: str | None = None,
    resume: bool = False,
    on_done: Callable[[Runnable, bool], None] | None = None,
    on_damage: Callable[[str], None] | None = None,
) -> Outcome:
    """Run every cell of a leaderboard.

    Args:
        board: what to compare.
        folder: where finished cells are kept.
        jobs: processes, or workers on the cluster; the numbers do not depend on it.
        cluster: address of a Ray cluster; None for this machine.
        resume: take finished cells of an earlier run.
        on_done: told each task as it finishes, and whether it was taken from disk.
        on_damage: told of each damaged cell, which is run anew.

    Raises:
        ValueError: a scenario cannot be prepared, or no strategy got through.
        KeyboardInterrupt: stopped by hand; `resume` goes on.
    """
    tasks = board.tasks()
    cells = run_tasks(tasks, folder, jobs=jobs, cluster=cluster, resume=resume, on_done=on_done, on_damage=on_damage)
    failed = _failed(tasks, cells)
    rows = [row for cell in cells for row in cell.rows if row["tuner"] not in failed]
    if not rows:
        raise ValueError("no strategy got through: " + "; ".join(failed.values()))
    curves = {
        (task.scenario.name, tuner): curve
        for task, cell in zip(tasks, cells, strict=True)
        if task.seed == board.first_seed
        for tuner, curve in cell.curves.items()
        if tuner not in failed
    }
    best = _best_limits(tasks, cells)
    config = board.content()
    seeds = {"seeds": list(range(board.first_seed, board.first_seed + board.seeds)), "track": board.track}
    origin = seeds | {key: value for key, value in provenance(config=config).items() if key != "seed"}
    write_json(folder / "config.json", config | origin)
    return Outcome(rows, curves, best, origin, failed)


def _failed(tasks: Sequence[Runnable], cells: Sequence[Cell]) -> dict[str, str]:
    """What each tuner raised, the first time."""
    found: dict[str, str] = {}
    for task, cell in zip(tasks, cells, strict=True):
        for tuner, error in cell.failed.items():
            found.setdefault(tuner, f"{error}, on {task.scenario.name} at seed {task.seed}")
    return found


def _best_limits(tasks: Sequence[Runnable], cells: Sequence[Cell]) -> dict[tuple[str, int], dict[str, Any]]:
    pairs = zip(tasks, cells, strict=True)
    return {(task.scenario.name, task.seed): cell.best for task, cell in pairs if cell.best is not None}
