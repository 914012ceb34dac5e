"""What every engine does around its scheduler: limits in, window metrics out, requests cancelled."""

from __future__ import annotations

import math
from typing import Any

import numpy as np
from numpy.typing import NDArray

from batchpilot.core.limits import DISCIPLINES, Limits
from batchpilot.core.metrics import METRICS, WindowMetrics, from_record
from batchpilot.engines.scheduler.cancellation import cancel
from batchpilot.engines.scheduler.state import OFF_TOKENS, STATIC, SchedulerState, row
from batchpilot.engines.scheduler.windows import open_window, summarise
from batchpilot.latency.model.compiled import entered, plain

NOT_PADDED = (
    "speculative_tokens is {:g} in mode static; members of a padded batch advance together, so set it to 0 or choose "
    "mode continuous"
)

_summarise, _open_window = entered(summarise), entered(open_window)


def write_limits(state: SchedulerState, i: int, limits: Limits, discipline: str, drafted: int = 0) -> None:
    """Put limits into force in row `i`.

    Args:
        state: the state.
        i: the row.
        limits: what the tuner asked for.
        discipline: who is next where the limits do not say.
        drafted: `speculative_tokens` where the limits have none.

    Raises:
        ValueError: speculation in padded batches.
    """
    if limits.speculative_tokens and state.clock["mode"][i] == STATIC:
        raise ValueError(NOT_PADDED.format(limits.speculative_tokens))
    state.limits.view(np.ndarray)[i] = (
        limits.batch_size,
        OFF_TOKENS if limits.token_budget is None else limits.token_budget,
        OFF_TOKENS if limits.max_queued_tokens is None else limits.max_queued_tokens,
        0.0 if limits.max_wait_ms is None else limits.max_wait_ms,
        math.inf if limits.step_target_ms is None else limits.step_target_ms,
        math.inf if limits.ttft_guard is None else limits.ttft_guard,
        DISCIPLINES[limits.discipline or discipline],
        limits.delay_factor or 0.0,
        OFF_TOKENS if limits.max_padding_tokens is None else limits.max_padding_tokens,
        math.inf if limits.max_padding_share is None else limits.max_padding_share,
        limits.speculative_tokens or drafted,
        math.inf if limits.refusal_bound is None else limits.refusal_bound,
    )


class Controls:
    """The controls and gauges of one engine's scheduler.

    Args:
        state: a loaded state of one simulation.
        discipline: who is next where the limits do not say.
        drafted: `speculative_tokens` where the limits have none.

    Attributes:
        row: the scheduler's arrays, as kernels take them.
        clock: the record of `CLOCK`.
        record: where a window is summarised, one record of `METRICS`.
    """

    def __init__(self, state: SchedulerState, discipline: str, drafted: int = 0) -> None:
        self._discipline, self._drafted = discipline, drafted
        self._limits: Limits | None = None
        self._use(state)

    def __getstate__(self) -> tuple[SchedulerState, str, int, Limits | None]:
        """What a copy is made of; views are not, since a copied view no longer looks at what it is a view of."""
        arrays = SchedulerState._make(array.copy() for array in self._state)
        return arrays, self._discipline, self._drafted, self._limits

    def __setstate__(self, state: tuple[SchedulerState, str, int, Limits | None]) -> None:
        """Go on from a copy."""
        arrays, self._discipline, self._drafted, self._limits = state
        self._use(arrays)

    def _use(self, state: SchedulerState) -> None:
        self.row = plain(row)(state, 0)
        clock = state.clock.view(np.ndarray)
        self.clock = clock[0]
        self._now_ms, self._n_ended, self._n_requests = (clock[name] for name in ("now_ms", "n_ended", "n_requests"))
        self.record = np.zeros(1, METRICS).view(np.recarray)
        self._state = state

    @property
    def now_ms(self) -> float:
        """Engine time."""
        return float(self._now_ms.item())

    @property
    def finished(self) -> bool:
        """Whether every request has ended."""
        return bool(self._n_ended.item() == self._n_requests.item())

    @property
    def limits(self) -> Limits:
        """The limits in force.

        Raises:
            RuntimeError: none were set.
        """
        if self._limits is None:
            raise RuntimeError("set_limits must be called before the engine runs")
        return self._limits

    def set_limits(self, limits: Limits) -> None:
        """Put limits into force from the next step on.

        Args:
            limits: what the tuner asked for.
        """
        if limits is not self._limits:
            write_limits(self._state, 0, limits, self._discipline, self._drafted)
            self._limits = limits

    def cancel(self, request: int) -> bool:
        """End a request at once as cancelled and free its KV blocks.

        Args:
            request: its place in the request table.

        Returns:
            False if it had ended already, which changes nothing.

        Raises:
            ValueError: there is no such request.
        """
        requests = int(self.clock["n_requests"])
        if not 0 <= request < requests:
            raise ValueError(f"there is no request {request} to cancel; the engine has {requests}, counted from 0")
        return bool(cancel(self.row, request))

    def close_window(self) -> WindowMetrics:
        """Measurements since the last call, and the start of a new window.

        Raises:
            RuntimeError: no limits were set.
        """
        limits = self.limits
        return from_record(self.measure()[0], limits)

    def measure(self) -> NDArray[Any]:
        """`close_window`, but for the `WindowMetrics`: `record`, written anew."""
        _summarise(self.row, self.record)
        _open_window(self.row)
        return self.record

    def stuck(self) -> RuntimeError:
        """The error to raise where waiting requests can never run (a defect of the scheduler)."""
        return RuntimeError(f"the scheduler is stuck at {self.now_ms} ms with limits {self._limits}")
