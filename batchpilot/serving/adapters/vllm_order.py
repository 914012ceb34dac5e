"""A tuner's discipline on vLLM's waiting line, which is first come, first served unless vLLM was told otherwise.

vLLM takes the first of the line that fits, so the line is put in order before a step. Only those who have not begun
move: who was preempted, or holds blocks already, stands before them as vLLM has put it.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Callable
from typing import Any

from batchpilot.core import SLO
from batchpilot.core.limits import DEADLINE_MS_PER_TOKEN

Promised = Callable[[Any], SLO]
"""The promise to a request of vLLM's."""

ARRIVAL = "fcfs"

KEYS: dict[str, Callable[[Any, Promised], float]] = {
    ARRIVAL: lambda request, _: float(request.arrival_time),
    "spf": lambda request, _: float(request.num_prompt_tokens),
    "sjf": lambda request, _: float(request.max_tokens),
    "slo": lambda request, promised: 1000.0 * request.arrival_time + promised(request).ttft_ms,
    "deadline": lambda request, promised: (
        1000.0 * request.arrival_time + promised(request).ttft_ms + DEADLINE_MS_PER_TOKEN * request.num_prompt_tokens
    ),
}
"""The smallest first, by discipline. Others need what vLLM does not know of a request: then it is as they came."""


class WaitingOrder:
    """Keeps the line of a vLLM that serves in order of arrival in a tuner's order instead.

    Args:
        promised: tells the promise to a request.
        may_move: whether a request has not begun.
    """

    def __init__(self, promised: Promised, may_move: Callable[[Any], bool]) -> None:
        self._promised, self._may_move = promised, may_move
        self._discipline = ARRIVAL
        self._came = False

    def hear_arrival(self) -> None:
        """A request has joined the line, at its end."""
        self._came = True

    def put(self, waiting: Any, discipline: str | None) -> None:
        """Put the line in order where it is not; one of another policy than vLLM's first come, first served is left.

        Args:
            waiting: vLLM's line.
            discipline: the tuner's, None for vLLM's own.
        """
        wanted = discipline if discipline in KEYS else ARRIVAL
        changed, came = wanted != self._discipline, self._came
        self._discipline, self._came = wanted, False
        if not isinstance(waiting, deque) or not (changed or (came and wanted != ARRIVAL)):
            return
        before = [request for request in waiting if not self._may_move(request)]
        moved = [request for request in waiting if self._may_move(request)]
        key = KEYS[wanted]
        moved.sort(key=lambda request: key(request, self._promised))
        waiting.clear()
        waiting.extend([*before, *moved])
