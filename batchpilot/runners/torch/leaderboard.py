"""A leaderboard on a real engine: the same cells, one at a time on one device."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field, fields, replace
from pathlib import Path

from batchpilot.envs.backends import Backend, SimulatedBackend
from batchpilot.envs.torch_backend import check_runnable
from batchpilot.runners.leaderboard.board import Leaderboard
from batchpilot.runners.leaderboard.evaluation import Task
from batchpilot.runners.leaderboard.strategies import STATIC_BEST
from batchpilot.runners.torch.backends import shown_calibration, start_backend
from batchpilot.runners.torch.calibration import TorchServer

MEASURED = (
    "Measured on a real engine, one strategy after another: times differ from run to run, and so may figures of equal "
    "seeds."
)
SEARCHED = (
    "static-best is the best of three settings in runs on the engine; the three were searched on its calibrated "
    "simulation, on the very requests. The engine may like a setting better that its simulation did not."
)
"""What a reader of the results must know, the second where static-best ran."""


@dataclass(frozen=True)
class TorchLeaderboard(Leaderboard):
    """A leaderboard whose cells run on a real engine.

    Attributes:
        backend: the engine.
    """

    backend: Backend = field(default_factory=SimulatedBackend)

    def tasks(self) -> list[Task]:
        """As `Leaderboard.tasks`, on the engine."""
        return [replace(task, backend=self.backend) for task in super().tasks()]


def on_engine(board: Leaderboard, start: Callable[[], Backend]) -> TorchLeaderboard:
    """A leaderboard moved to a real engine, which is only started when every scenario can run there.

    Args:
        board: what to compare.
        start: starts the engine.

    Raises:
        ValueError: a scenario cannot run there, or the engine cannot be started.
    """
    for scenario in board.scenarios:
        check_runnable(scenario)
    return TorchLeaderboard(**{one.name: getattr(board, one.name) for one in fields(Leaderboard)}, backend=start())


def started_on(
    server: TorchServer, board: Leaderboard, folder: Path, parameters: Path | None, *, resume: bool
) -> TorchLeaderboard:
    """A leaderboard moved to an engine that is started for it, and remembered beside the results.

    Args:
        server: the model and how it runs.
        board: what to compare.
        folder: of the results.
        parameters: what `calibrate --out` wrote; None calibrates now.
        resume: take the engine's capacity and latency from an earlier run.

    Raises:
        ValueError: a scenario cannot run there, or the engine cannot be started.
        OSError: a file cannot be read.
    """
    kept = folder / "engine.json"
    return on_engine(
        board,
        lambda: start_backend(server, parameters=parameters, remembered=kept, resume=resume, show=shown_calibration),
    )


def notes_on_engine(board: Leaderboard) -> list[str]:
    """What a reader must know of results that an engine gave.

    Args:
        board: what was compared.
    """
    return [MEASURED, SEARCHED] if STATIC_BEST in board.strategies else [MEASURED]
