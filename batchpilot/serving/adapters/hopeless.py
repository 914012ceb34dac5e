"""Which waiting requests of somebody else's scheduler can no longer be served in time. Times in ms."""

from __future__ import annotations

import heapq
import math
from collections.abc import Callable, Hashable
from dataclasses import dataclass


@dataclass(frozen=True, slots=True)
class _Waiting:
    arrived_ms: float
    prompt_tokens: int
    ttft_target_ms: float


class Hopeless:
    """Waiting requests in the order in which they become hopeless; a look at it costs only those that have.

    Args:
        fastest_ms: the least time in which a prompt of so many tokens is computed.
    """

    def __init__(self, fastest_ms: Callable[[int], float]) -> None:
        self._fastest_ms = fastest_ms
        self._waiting: dict[Hashable, _Waiting] = {}
        self._heap: list[tuple[float, int, Hashable]] = []
        self._guard = math.inf
        self._entered = 0

    def add(self, request: Hashable, arrived_ms: float, prompt_tokens: int, ttft_target_ms: float) -> None:
        """A request waits.

        Args:
            request: its id.
            arrived_ms: when it came.
            prompt_tokens: its prompt.
            ttft_target_ms: its promise.
        """
        self._waiting[request] = _Waiting(arrived_ms, prompt_tokens, ttft_target_ms)
        self._enter(request)

    def discard(self, request: Hashable) -> None:
        """A request waits no longer.

        Args:
            request: any id, once or again.
        """
        self._waiting.pop(request, None)

    def take(self, guard: float | None, now_ms: float, step_ms: float) -> list[Hashable]:
        """Take out whoever is hopeless at the next look, or could be told so only after the guard's time is up.

        Args:
            guard: multiple of the TTFT target that is allowed; None for no guard.
            now_ms: the present.
            step_ms: time until the next look; who is refused there is told when the step after it has ended.
        """
        if guard is None:
            return []
        if guard != self._guard:
            self._guard, self._heap = guard, []
            for request in self._waiting:
                self._enter(request)
        until_ms, late, later = now_ms + step_ms, [], []
        while self._heap and self._heap[0][0] <= until_ms + step_ms:
            _, _, request = heapq.heappop(self._heap)
            waiting = self._waiting.get(request)
            if waiting is None:
                continue
            if self._latest_ms(waiting) <= until_ms or self._deadline_ms(waiting) <= until_ms + step_ms:
                late.append(request)
                del self._waiting[request]
            else:
                later.append(request)
        for request in later:
            self._enter(request)
        return late

    def _enter(self, request: Hashable) -> None:
        if self._guard < math.inf:
            self._entered += 1
            heapq.heappush(self._heap, (self._latest_ms(self._waiting[request]), self._entered, request))

    def _deadline_ms(self, waiting: _Waiting) -> float:
        return waiting.arrived_ms + self._guard * waiting.ttft_target_ms

    def _latest_ms(self, waiting: _Waiting) -> float:
        return self._deadline_ms(waiting) - self._fastest_ms(waiting.prompt_tokens)
