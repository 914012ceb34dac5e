"""What measures the steps of a real engine, in seconds."""

from __future__ import annotations

import time
from collections.abc import Callable
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from batchpilot.engines.torch import ModelRunner

Clock = Callable[[], float]


def step_clock(runner: ModelRunner) -> tuple[Clock, str]:
    """What measures steps that are to be compared, and what to call it.

    On one processor thread it is the thread's own processor time, about what a step takes when nobody else uses the
    machine, so that steps can be compared where others do. Anywhere else it is the time that passes.

    Args:
        runner: the model.
    """
    from torch import get_num_threads

    if runner.device.type == "cpu" and get_num_threads() == 1:
        return time.thread_time, "in processor time of its one thread"
    return time.perf_counter, "in time that passes"
