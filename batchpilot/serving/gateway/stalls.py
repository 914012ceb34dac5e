"""When the gateway itself stood still, so that nobody blames the upstream for it. Times in ms."""

from __future__ import annotations

import math

LATE_MS = 150.0
"""A heartbeat that is so old tells of an event loop that stood still: the sweep beats every 50 ms."""


class Stalls:
    """Tells spans that were measured from spans in which the gateway was held up: compiling, swapping, suspended.

    After a stall events are handled before the timer that would report it, so each event looks at the heartbeat.
    """

    def __init__(self) -> None:
        self._alive_ms = math.inf
        self._stalled_ms = -math.inf

    def beat(self, now_ms: float) -> None:
        """The event loop runs.

        Args:
            now_ms: the present.
        """
        self._look(now_ms)
        self._alive_ms = now_ms

    def awake_since(self, began_ms: float, now_ms: float) -> bool:
        """Whether the gateway was awake from a moment on, as far as heartbeats tell.

        Args:
            began_ms: the moment.
            now_ms: the present.
        """
        self._look(now_ms)
        return began_ms >= self._stalled_ms

    def _look(self, now_ms: float) -> None:
        if now_ms - self._alive_ms > LATE_MS:
            self._stalled_ms = self._alive_ms = now_ms
