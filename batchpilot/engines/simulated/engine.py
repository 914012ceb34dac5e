"""The simulated engine behind a Python face: configure, load requests, set limits, run to a time, read a window."""

from __future__ import annotations

import copy
import math
from typing import Any

import numpy as np
from numpy.typing import NDArray

from batchpilot.core.limits import Limits
from batchpilot.core.metrics import METRICS, MeasuredWindows, WindowMetrics, from_record
from batchpilot.engines.scheduler.controls import Controls
from batchpilot.engines.scheduler.state import SchedulerState, allocate
from batchpilot.engines.scheduler.windows import run_windows
from batchpilot.engines.simulated.config import EngineConfig
from batchpilot.engines.simulated.kernel import DONE, LOG_FULL, REACHED, STUCK, advance
from batchpilot.engines.simulated.loading import NOISE_TABLE, hashed_blocks, load
from batchpilot.latency.model.compiled import entered
from batchpilot.workloads.table import RequestTable

_run_windows = entered(run_windows)

WINDOWS_AT_ONCE = 4096
"""Windows that compiled code measures before Python looks again."""


class SimulatedEngine:
    """One simulated server: its scheduler, its clock and its requests.

    Args:
        config: the engine.
        requests: what will arrive.
        record_steps: keep start, B, S, C and T of every step.
        images: different images that features may be kept of, if more than the requests can have.
        blocks: contents of KV blocks that may be cached, if more than the requests can have.
    """

    def __init__(
        self,
        config: EngineConfig,
        requests: RequestTable,
        *,
        record_steps: bool = False,
        images: int = 0,
        blocks: int = 0,
    ) -> None:
        self.config = config
        self.requests = requests
        state = allocate(
            1,
            len(requests),
            users=requests.users,
            noise=NOISE_TABLE if config.noise > 0 else 1,
            drift_rows=len(config.drift),
            step_log=4096 if record_steps else 0,
            hashed_blocks=max(hashed_blocks(config, requests), blocks),
            conversations=requests.turns is not None,
            images=max(requests.image_rows, images),
        )
        load(state, 0, config, requests)
        self._controls = Controls(state, config.discipline, config.speculation.drafted)
        self._row = self._controls.row
        self._full_logs: list[NDArray[np.float64]] = []

    def __getstate__(self) -> dict[str, Any]:
        """All but the view of the scheduler's arrays, which a copy makes anew of its own."""
        return {name: value for name, value in self.__dict__.items() if name != "_row"}

    def __setstate__(self, state: dict[str, Any]) -> None:
        """Go on from a copy exactly as the original would."""
        self.__dict__.update(state)
        self._row = self._controls.row

    def __copy__(self) -> SimulatedEngine:
        """Two engines over the same arrays would be one: a copy is always a deep one."""
        return copy.deepcopy(self)

    @property
    def state(self) -> SchedulerState:
        """The scheduler's arrays, for inspection; kernels may be called on them."""
        return self._row

    @property
    def now_ms(self) -> float:
        """Engine time."""
        return self._controls.now_ms

    @property
    def finished(self) -> bool:
        """Whether every request has ended."""
        return self._controls.finished

    def set_limits(self, limits: Limits) -> None:
        """Put limits into force from the next step on.

        Args:
            limits: what the tuner asked for.
        """
        self._controls.set_limits(limits)

    def cancel(self, request: int) -> bool:
        """End a request at once as cancelled, whatever it is doing, and free its KV blocks.

        Args:
            request: its place in the request table.

        Returns:
            False if it had ended already, which changes nothing.

        Raises:
            ValueError: there is no such request.
        """
        return self._controls.cancel(request)

    def run_until(self, until_ms: float) -> bool:
        """Run until the clock reaches a time; the step that crosses it is finished.

        Args:
            until_ms: engine time, infinity to run until every request has ended.

        Returns:
            Whether every request has ended.

        Raises:
            RuntimeError: no limits were set, or waiting requests can never run (a defect of the scheduler).
        """
        _ = self._controls.limits
        while (code := advance(self._row, until_ms)) == LOG_FULL:
            self._empty_log()
        return self._is_done(code)

    def run_window(self, until_ms: float) -> tuple[WindowMetrics, bool]:
        """Run until a time, close the window and open the next.

        Args:
            until_ms: engine time.

        Returns:
            The window's measurements, and whether every request has ended.

        Raises:
            RuntimeError: as `run_until`.
        """
        record, done = self.run_record(until_ms)
        return from_record(record[0], self._controls.limits), done

    def run_record(self, until_ms: float) -> tuple[NDArray[Any], bool]:
        """`run_window`, but for the `WindowMetrics`.

        Args:
            until_ms: engine time.

        Returns:
            One record of `core.metrics.METRICS`, shape (1,), written over by the next window; whether every request has
            ended.

        Raises:
            RuntimeError: as `run_until`.
        """
        _ = self._controls.limits
        measured = 0
        while measured == 0 and self.now_ms < until_ms:
            # The same compiled code as for many windows: a second copy would take half a minute to compile.
            measured, code = _run_windows(self._row, math.inf, until_ms, self._controls.record)
            if code == LOG_FULL:
                self._empty_log()
        if measured == 0:
            return self._controls.measure(), self.finished
        return self._controls.record, self._is_done(code)

    def run_windows(self, window_ms: float, end_ms: float) -> MeasuredWindows:
        """Run window after window under the limits in force, until a time or until every request has ended.

        Args:
            window_ms: length of a window, > 0; the step that crosses its end still belongs to it.
            end_ms: engine time, infinity to run until every request has ended.

        Returns:
            What `run_window` would have measured in each.

        Raises:
            RuntimeError: as `run_until`.
        """
        limits = self._controls.limits
        parts, code = [], REACHED
        while self.now_ms < end_ms and not self._is_done(code):
            records = np.zeros(WINDOWS_AT_ONCE, METRICS)
            done, code = _run_windows(self._row, window_ms, end_ms, records.view(np.recarray))
            parts.append(records[:done])
            if code == LOG_FULL:
                self._empty_log()
        return MeasuredWindows(limits, np.concatenate([np.zeros(0, METRICS), *parts]))

    def close_window(self) -> WindowMetrics:
        """Measurements since the last call, and the start of a new window.

        Raises:
            RuntimeError: no limits were set.
        """
        return self._controls.close_window()

    def step_log(self, since: int = 0) -> NDArray[np.float64]:
        """Steps so far, rows of (start_ms, B, S, C, T_ms), shape (steps, 5); empty unless recorded.

        Args:
            since: leave out so many of the first.
        """
        logs = [*self._full_logs, self._row.step_log[: int(self._controls.clock["n_logged"])]]
        whole = min(since // max(len(self._row.step_log), 1), len(self._full_logs))
        return np.concatenate(logs[whole:])[since - whole * len(self._row.step_log) :]

    def _empty_log(self) -> None:
        self._full_logs.append(self._row.step_log.copy())
        self._controls.clock["n_logged"] = 0

    def _is_done(self, code: int) -> bool:
        if code == STUCK:
            raise self._controls.stuck()
        return code == DONE
