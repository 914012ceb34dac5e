"""What drives an engine may ask of it, simulated or real."""

from __future__ import annotations

from typing import Any, Protocol

import numpy as np
from numpy.typing import NDArray

from batchpilot.core.limits import Limits
from batchpilot.core.metrics import WindowMetrics
from batchpilot.engines.scheduler.state import SchedulerState
from batchpilot.workloads.table import RequestTable


class Executor(Protocol):
    """Whatever executes the scheduler's plans: `SimulatedEngine`, or `TorchEngine` of the extra `torch`."""

    @property
    def config(self) -> object:
        """How it was configured."""

    @property
    def requests(self) -> RequestTable:
        """What arrives."""

    @property
    def state(self) -> SchedulerState:
        """The scheduler's arrays."""

    @property
    def now_ms(self) -> float:
        """Engine time."""

    @property
    def finished(self) -> bool:
        """Whether every request has ended."""

    def set_limits(self, limits: Limits) -> None:
        """Put limits into force from the next step on."""

    def cancel(self, request: int) -> bool:
        """End a request at once as cancelled; False if it had ended already."""

    def run_until(self, until_ms: float) -> bool:
        """Run until the clock reaches a time; whether every request has ended."""

    def run_window(self, until_ms: float) -> tuple[WindowMetrics, bool]:
        """Run until a time, close the window; its measurements, and whether every request has ended."""

    def run_record(self, until_ms: float) -> tuple[NDArray[Any], bool]:
        """`run_window` as one record of `core.metrics.METRICS`, shape (1,), valid until the next window."""

    def close_window(self) -> WindowMetrics:
        """Measurements since the last call, and the start of a new window."""

    def step_log(self, since: int = 0) -> NDArray[np.float64]:
        """Rows of (start_ms, B, S, C, T_ms), shape (steps, 5); empty unless recorded."""
