"""What a server knows beyond window metrics, read out of an engine, and what a tuner believes, put into one."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray

from batchpilot.core.details import IN_FLIGHT, WindowDetails
from batchpilot.engines.scheduler.conversations import arrived
from batchpilot.engines.scheduler.executor import Executor
from batchpilot.engines.scheduler.state import LENGTH, REQUEST, UNFINISHED
from batchpilot.latency.model.saturation import N_PARAMETERS

_COLUMNS = {
    "arrival_ms": "arrival_ms",
    "prompt_tokens": "prompt",
    "ttft_target_ms": "ttft_target_ms",
    "tpot_target_ms": "tpot_target_ms",
    "computed_tokens": "computed",
    "generated_tokens": "generated",
    "first_token_ms": "first_ms",
    "cached_tokens": "cached",
}
"""Columns of `IN_FLIGHT` and where the scheduler keeps them."""


class DetailsReader:
    """What has happened in an engine since it was last read.

    Args:
        engine: a simulated or real engine with its own request table; steps are only told if it records them.
    """

    def __init__(self, engine: Executor) -> None:
        self._engine = engine
        self._steps = self._arrived = self._ended = 0

    def read(self) -> WindowDetails:
        """Everything since the last call, and who is in flight now."""
        s = self._engine.state
        c = s.clock[0]
        steps = self._engine.step_log(self._steps)
        ended = s.requests[s.slots["ended"][self._ended : c.n_ended]]
        come = arrived(s, self._arrived)
        details = WindowDetails(
            now_ms=self._engine.now_ms,
            steps=steps,
            arrivals=in_flight(come),
            output_tokens=ended["generated"][ended["reason"] == LENGTH],
            running=in_flight(s.requests[s.slots["running"][: c.n_running]]),
            waiting=in_flight(s.requests[np.sort(s.lines["waiting"][: c.n_queue])]),
        )
        self._steps, self._arrived, self._ended = self._steps + len(steps), int(c.next_arrival), int(c.n_ended)
        return details


def in_flight(requests: NDArray[Any]) -> NDArray[Any]:
    """What a server knows of requests; their output lengths are not among it.

    Args:
        requests: records of `engines.state.REQUEST`, shape (n,); those that ended are left out only by the caller.

    Returns:
        Records of `IN_FLIGHT`, shape (n,).
    """
    known = np.empty(len(requests), IN_FLIGHT)
    for name, column in _COLUMNS.items():
        known[name] = requests[column]
    return known


def as_requests(known: NDArray[Any]) -> NDArray[Any]:
    """Scheduler records of requests in flight, the way back; output lengths are left at zero.

    Args:
        known: records of `IN_FLIGHT`, shape (n,).

    Returns:
        Records of `engines.state.REQUEST`, shape (n,).
    """
    requests = np.zeros(len(known), REQUEST)
    for name, column in _COLUMNS.items():
        requests[column] = known[name]
    requests["finish_ms"] = np.nan
    requests["reason"] = UNFINISHED
    requests["admitted"] = known["generated_tokens"] > 0
    return requests


def believe(engine: Executor, estimate: Sequence[float]) -> None:
    """Give the inner loop of an engine another estimate of its step latency.

    Args:
        engine: a simulated or real engine.
        estimate: the saturation parameters in their order, the last two left out or not.
    """
    dense = (0.0, 64.0) if len(estimate) == N_PARAMETERS - 2 else ()
    engine.state.parameters[0, 1:] = (*estimate, *dense)
