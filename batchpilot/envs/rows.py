"""Many simulated engines side by side: one scheduler state with a row each, run in threads. Times in ms.

A row gives the very numbers that a `SimulatedEngine` gives for the same run: rows share nothing but the arrays.
"""

from __future__ import annotations

import math
from functools import partial
from typing import Any

import numpy as np
from numba import get_num_threads
from numpy.typing import NDArray

from batchpilot.core.features import FEATURE_NAMES, QUANTITIES
from batchpilot.core.limit_arrays import LimitArrays
from batchpilot.core.limits import DISCIPLINES
from batchpilot.core.metrics import METRICS
from batchpilot.engines.scheduler.controls import NOT_PADDED
from batchpilot.engines.scheduler.state import STATIC, SchedulerState, allocate
from batchpilot.engines.simulated.kernel import STUCK
from batchpilot.engines.simulated.loading import NOISE_TABLE, hashed_blocks, load
from batchpilot.engines.simulated.threads import in_threads
from batchpilot.envs.observing import run_rows
from batchpilot.envs.scenarios import PreparedRun
from batchpilot.latency.model.compiled import entered

ROWS_PER_THREAD = 32
"""A thread pays for itself from about this many rows on."""


_VIEWS = ("_clock", "_records", "_numbers")
_run_rows = entered(run_rows)


class SimulationRows:
    """n simulated engines.

    Args:
        n: rows.
        threads: that run compiled code; None takes one for every `ROWS_PER_THREAD` rows, up to Numba's number. They
            sleep when they wait, so that they harm nobody where they outnumber the idle processors.

    Attributes:
        metrics: the last window of each row, records of `METRICS`, shape (n,).
        limits: that were set last, shape (n, fields of `LimitArrays`).
        observations: its features, shape (n, F), float32; written anew by every window.

    Raises:
        ValueError: more threads than Numba has, or none.
    """

    def __init__(self, n: int, threads: int | None = None) -> None:
        most = get_num_threads()
        if threads is not None and not 1 <= threads <= most:
            raise ValueError(f"threads is {threads}; it must be from 1 to {most}, or None for a choice by rows")
        self._threads = min(threads or max(1, min(n // ROWS_PER_THREAD, most)), n)
        self.metrics = np.zeros(n, METRICS)
        self.observations = np.zeros((n, len(FEATURE_NAMES)), np.float32)
        self._quantities = np.zeros((n, QUANTITIES))
        self.limits = np.zeros((n, len(LimitArrays._fields)))
        self._codes = np.zeros(n, np.int64)
        self._own = np.zeros((2, n), np.int64)
        self._use(allocate(n, 0))

    def __getstate__(self) -> dict[str, Any]:
        """All but the views, which a copy makes anew of its own arrays."""
        return {name: value for name, value in self.__dict__.items() if name not in _VIEWS}

    def __setstate__(self, state: dict[str, Any]) -> None:
        """Go on from a copy exactly as the original would."""
        self.__dict__.update(state)
        self._use(self._state)

    @property
    def now_ms(self) -> NDArray[np.float64]:
        """Engine times, shape (n,)."""
        return self._clock["now_ms"]

    @property
    def finished(self) -> NDArray[np.bool_]:
        """Whether every request has ended, shape (n,)."""
        ended: NDArray[np.bool_] = self._clock["n_ended"] == self._clock["n_requests"]
        return ended

    @property
    def tpot_target_ms(self) -> NDArray[np.float64]:
        """TPOT targets as the last windows know them, shape (n,)."""
        return self._clock["tpot_target_ms"]

    def load(self, i: int, run: PreparedRun) -> None:
        """Put a run into a row, at time 0; the state grows where the run needs more room.

        Args:
            i: the row.
            run: engine and requests.
        """
        requests, engine = run.requests, run.engine
        noise = NOISE_TABLE if engine.noise > 0 else 1
        self._make_room(
            len(requests),
            requests.users,
            noise,
            len(engine.drift),
            hashed_blocks(engine, requests),
            requests.turns is not None,
            requests.image_rows,
        )
        load(self._state, i, engine, requests)
        self._own[:, i] = DISCIPLINES[engine.discipline], engine.speculation.drafted

    def set_limits(self, limits: LimitArrays) -> None:
        """Limits that every row follows from its next window on.

        Args:
            limits: arrays of shape (n,).

        Raises:
            ValueError: speculation in padded batches.
        """
        if limits.speculative_tokens.any():
            padded = np.where(self._clock["mode"] == STATIC, limits.speculative_tokens, 0.0)
            if padded.any():
                raise ValueError(NOT_PADDED.format(padded.max()))
        self.limits[:] = np.transpose(limits)

    def run_until(self, until_ms: NDArray[np.float64]) -> None:
        """Run every row to its time and measure its window; a row that is already there measures an empty one.

        Args:
            until_ms: engine times, shape (n,).

        Raises:
            RuntimeError: waiting requests of a row can never run (a defect of the scheduler).
        """
        in_threads(partial(self._run_some, until_ms), len(self._codes), self._threads)
        if (self._codes == STUCK).any():
            stuck = int(np.argmax(self._codes == STUCK))
            raise RuntimeError(f"the scheduler of row {stuck} is stuck at {self.now_ms[stuck]} ms")

    def _run_some(self, until_ms: NDArray[np.float64], first: int, end: int) -> None:
        _run_rows(
            self._state, first, end, until_ms, self._codes, self._own, self._records, self._numbers, self.limits,
            self._quantities, self.observations,
        )  # fmt: skip

    def measure(self, i: int) -> None:
        """Measure and observe one row's window and open the next.

        Args:
            i: the row.
        """
        # A copy, since compiled code is entered without a look at how its arrays lie.
        self._run_some(self._clock["now_ms"].copy(), i, i + 1)

    def _use(self, state: SchedulerState) -> None:
        """Take a state into use, with plain views of the records that every step reads."""
        self._state = state
        self._records = self.metrics.view(np.recarray)
        self._numbers = self.metrics.view(np.float64).reshape(len(self.metrics), -1)
        self._clock = state.clock.view(np.ndarray)

    def _make_room(
        self, requests: int, users: int, noise: int, drift_rows: int, contents: int, conversations: bool, images: int
    ) -> None:
        """Grow the state, rows in progress included, until a run fits; sizes double so that this stays rare."""
        state = self._state
        room = (
            state.requests.shape[1],
            state.users.shape[1],
            state.noise.shape[1],
            state.parameters.shape[1] - 2,
            state.contents.shape[1],
            state.turns.shape[1],
            state.images.shape[1],
        )
        needed = (requests, users, noise, drift_rows, contents, requests if conversations else 0, images)
        if all(need <= have for need, have in zip(needed, room, strict=True)):
            return
        grown = [max(have, 2 ** math.ceil(math.log2(max(need, 1)))) for need, have in zip(needed, room, strict=True)]
        larger = allocate(
            len(self._codes),
            grown[0],
            users=grown[1],
            noise=grown[2],
            drift_rows=grown[3],
            hashed_blocks=grown[4] if max(contents, room[4]) else 0,
            conversations=max(needed[5], room[5]) > 0,
            images=grown[6],
        )
        for old, new in zip(state, larger, strict=True):
            new[tuple(slice(size) for size in old.shape)] = old
        self._use(larger)
