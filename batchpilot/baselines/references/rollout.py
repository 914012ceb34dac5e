"""Rolling a simulated server forward from a kept moment under different schedules of limits. Times in ms.

A schedule holds one setting a decision window, as `run_engine` would put them into force: a window ends with the step
that crosses its end, and the last setting stays.
"""

from __future__ import annotations

import math
from collections.abc import Sequence

import numpy as np
from numpy.typing import NDArray

from batchpilot.core.limits import Limits
from batchpilot.engines.scheduler.controls import write_limits
from batchpilot.engines.scheduler.state import LIMITS, SchedulerState, allocate, row
from batchpilot.engines.simulated.kernel import DONE, STUCK, advance
from batchpilot.engines.simulated.loading import NOISE_TABLE, hashed_blocks, load
from batchpilot.envs.scenarios import PreparedRun
from batchpilot.latency.model.compiled import kernel, plain

_KEPT, _TRIED = 0, 1
_CONSTANT = ("parameters", "noise")


@kernel
def play(s: SchedulerState, schedule, first: int, last: int, window_ms: float, end_ms: float) -> int:  # type: ignore[no-untyped-def]
    """Run windows `first` to `last - 1` of a schedule from the present state, or until everything has ended.

    Args:
        s: one simulation.
        schedule: records of `LIMITS`, shape (windows,).
        first: the window that begins now.
        last: the first window that is not run.
        window_ms: length of a window.
        end_ms: where the run stops, infinity for never.

    Returns:
        The window that would be next, or -1 when waiting requests can never run.
    """
    c = s.clock[0]
    k = first
    while k < last and c.now_ms < end_ms:
        s.limits[0] = schedule[min(k, len(schedule) - 1)]
        code = advance(s, min(c.now_ms + window_ms, end_ms))
        k += 1
        if code == STUCK:
            return -1
        if code == DONE:
            return last
    return k


class Rollouts:
    """One run that can be gone through in time, and tried out to its end from wherever it stands.

    Args:
        run: the run.
    """

    def __init__(self, run: PreparedRun) -> None:
        self._run = run
        self._end_ms = math.inf if run.horizon_ms is None else run.horizon_ms
        config, requests = run.engine, run.requests
        self._state = allocate(
            2,
            len(requests),
            users=requests.users,
            noise=NOISE_TABLE if config.noise > 0 else 1,
            drift_rows=len(config.drift),
            hashed_blocks=hashed_blocks(config, requests),
            conversations=requests.turns is not None,
            images=requests.image_rows,
        )
        for i in (_KEPT, _TRIED):
            load(self._state, i, config, requests)
        self._rows = [plain(row)(self._state, i) for i in (_KEPT, _TRIED)]
        self._window = 0
        self.rollouts = 0

    @property
    def finished(self) -> bool:
        """Whether the kept moment is the end of the run."""
        clock = self._rows[_KEPT].clock[0]
        return bool(clock.now_ms >= self._end_ms or clock.n_ended == clock.n_requests)

    def rewind(self) -> None:
        """Go back to the beginning."""
        load(self._state, _KEPT, self._run.engine, self._run.requests)
        self._window = 0

    def go_on(self, schedule: NDArray[np.void], windows: int) -> None:
        """Move the kept moment.

        Args:
            schedule: what `encode` made, shape (windows of the whole run,).
            windows: how far.

        Raises:
            RuntimeError: waiting requests can never run (a defect of the scheduler).
        """
        self._play(_KEPT, schedule, self._window + windows)
        self._window += windows

    def tokens(self, schedule: NDArray[np.void]) -> int:
        """Output tokens served within SLO at the end of the run, going on from the kept moment.

        Args:
            schedule: what `encode` made; only its windows from the kept moment on matter.

        Raises:
            RuntimeError: as `go_on`.
        """
        self.rollouts += 1
        for name, array in self._state._asdict().items():
            if name not in _CONSTANT:
                array[_TRIED] = array[_KEPT]
        self._play(_TRIED, schedule, 2**62)
        # No window is ever opened here, so the count of the first one is that of the whole run.
        return int(self._rows[_TRIED].window[0].slo_met_tokens)

    def encode(self, schedule: Sequence[Limits]) -> NDArray[np.void]:
        """Limits as the kernels read them.

        Args:
            schedule: one setting a window.

        Returns:
            Records of `LIMITS`, shape (windows,).
        """
        scratch = allocate(len(schedule), 0)._replace(limits=np.zeros(len(schedule), LIMITS).view(np.recarray))
        engine = self._run.engine
        for i, limits in enumerate(schedule):
            write_limits(scratch, i, limits, engine.discipline, engine.speculation.drafted)
        return scratch.limits

    def _play(self, i: int, schedule: NDArray[np.void], last: int) -> None:
        if play(self._rows[i], schedule, self._window, last, self._run.window_ms, self._end_ms) < 0:
            raise RuntimeError(f"the scheduler is stuck at {self._rows[i].clock[0].now_ms} ms")
