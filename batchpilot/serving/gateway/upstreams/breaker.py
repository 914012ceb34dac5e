"""A circuit breaker: an upstream that fails again and again is left alone, then tried with one request. Times in ms."""

from __future__ import annotations

import math


class Breaker:
    """Closed, open, or half open.

    Args:
        failures: in a row, after which it opens.
        open_ms: how long it stays so.

    Attributes:
        open_until_ms: nobody goes before; minus infinity while it is closed.
        opened: how often it has opened; one that stays open after a trial is not counted anew.
    """

    def __init__(self, failures: int, open_ms: float) -> None:
        self.open_until_ms = -math.inf
        self.opened = 0
        self._most, self._open_ms = failures, open_ms
        self._failures = 0

    def state(self, now_ms: float) -> str:
        """`closed`, `open`, or `half-open` when the next request tries.

        Args:
            now_ms: the present.
        """
        if self.open_until_ms == -math.inf:
            return "closed"
        return "open" if now_ms < self.open_until_ms else "half-open"

    def sent(self, now_ms: float) -> None:
        """A request goes; of a half-open breaker it is the one that tries, and others keep away meanwhile.

        Args:
            now_ms: the present.
        """
        if self.state(now_ms) == "half-open":
            self.open_until_ms = now_ms + self._open_ms

    def succeeded(self) -> None:
        """An answer has begun well."""
        self._failures, self.open_until_ms = 0, -math.inf

    def failed(self, now_ms: float) -> None:
        """A request failed.

        Args:
            now_ms: the present.
        """
        self._failures += 1
        if self._failures >= self._most:
            self.opened += self._failures == self._most
            self.open_until_ms = now_ms + self._open_ms
