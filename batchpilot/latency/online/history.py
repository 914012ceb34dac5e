"""What was observed: a ring buffer of steps (requests B, tokens S, context C, time T in ms) and stretches of it."""

from __future__ import annotations

import threading
from array import array
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

CAPACITY = 10_000
SHORTEST_MS = 0.1
LONGEST_MS = 60_000.0
"""Bounds of a believable step. The document's 500 ms, meant for fitting decode steps offline, would hide long prefills
from an engine that adapts to them."""

MOST = 1e9
"""No step holds more requests, tokens or context tokens than this."""

COLUMNS = ("batch_size", "tokens", "context_tokens", "duration_ms")


@dataclass(frozen=True, slots=True, eq=False)
class History:
    """Consecutive observations, oldest first.

    Attributes:
        rows: columns B, S, C and T in ms, shape (n, 4), C-contiguous.
        first: number of the first row, counting accepted observations from 0.
    """

    rows: NDArray[np.float64]
    first: int = 0

    def __len__(self) -> int:
        return len(self.rows)

    @property
    def end(self) -> int:
        """Number of the observation that comes next."""
        return self.first + len(self.rows)

    def since(self, number: int) -> History:
        """The observations from a number on, as far back as they are kept.

        Args:
            number: of the first one wanted.
        """
        skipped = min(max(number - self.first, 0), len(self.rows))
        return History(self.rows[skipped:], self.first + skipped)

    def until(self, number: int) -> History:
        """The observations before a number.

        Args:
            number: of the first one left out.
        """
        return History(self.rows[: max(number - self.first, 0)], self.first)

    def newest(self, count: int) -> History:
        """The last observations, fewer where there are fewer.

        Args:
            count: how many, >= 0.
        """
        return self.since(self.end - count)


class ObservationBuffer:
    """The newest observations in preallocated memory; any number of threads may record while others read.

    Args:
        capacity: observations kept, >= 1.
        shortest_ms: a step at or below this is dropped, >= 0.
        longest_ms: a step at or above this is dropped.

    Attributes:
        count: observations accepted so far, those no longer kept included.
        dropped: observations refused so far: not numbers, not finite, or outside their bounds.

    Raises:
        ValueError: the capacity or the bounds leave nothing to keep.

    Source: throughput saturation document, online adaptation (10,000 observations).
    """

    __slots__ = ("_cells", "_first", "_lock", "_rows", "capacity", "count", "dropped", "longest_ms", "shortest_ms")

    def __init__(
        self, capacity: int = CAPACITY, shortest_ms: float = SHORTEST_MS, longest_ms: float = LONGEST_MS
    ) -> None:
        if capacity < 1:
            raise ValueError(f"capacity is {capacity}; it must be >= 1 observation")
        if not 0 <= shortest_ms < longest_ms:
            raise ValueError(f"bounds are {shortest_ms} and {longest_ms} ms; expected 0 <= shortest < longest")
        self.capacity = capacity
        self.shortest_ms = float(shortest_ms)
        self.longest_ms = float(longest_ms)
        self.count = 0
        self.dropped = 0
        # Writing floats into an array of the standard library takes a third of the time of assigning a NumPy row.
        self._cells = array("d", bytes(8 * capacity * len(COLUMNS)))
        self._rows = np.frombuffer(self._cells).reshape(capacity, len(COLUMNS))
        self._first = 0
        self._lock = threading.Lock()

    def record(self, batch_size: float, tokens: float, context_tokens: float, duration_ms: float) -> bool:
        """Keep one observation; never raises.

        Args:
            batch_size: requests in the step, 1 to `MOST`.
            tokens: tokens computed, 1 to `MOST`.
            context_tokens: tokens read by attention, 0 to `MOST`.
            duration_ms: measured time, between the bounds.

        Returns:
            Whether it was kept; otherwise it was counted as dropped.
        """
        try:
            B, S, C, T = float(batch_size), float(tokens), float(context_tokens), float(duration_ms)
        except (TypeError, ValueError, OverflowError):
            B = S = C = T = -1.0
        with self._lock:
            # A chain of comparisons is false for NaN, which therefore needs no test of its own.
            if 1.0 <= B <= MOST and 1.0 <= S <= MOST and 0.0 <= C <= MOST and self.shortest_ms < T < self.longest_ms:
                cells, at = self._cells, self.count % self.capacity * 4
                cells[at], cells[at + 1], cells[at + 2], cells[at + 3] = B, S, C, T
                self.count += 1
                return True
            self.dropped += 1
            return False

    def history(self, newest: int | None = None) -> History:
        """A copy of what is kept.

        Args:
            newest: only so many of the last observations, >= 0; None for all.
        """
        with self._lock:
            kept = self.capacity if newest is None else min(newest, self.capacity)
            first = max(self._first, self.count - kept)
            start = first % self.capacity
            stop = start + self.count - first
            rows = np.concatenate((self._rows[start:stop], self._rows[: max(stop - self.capacity, 0)]))
            return History(rows, first)

    def state_dict(self) -> dict[str, Any]:
        """The observations and counts, as plain data."""
        history = self.history()
        return {"rows": history.rows.tolist(), "count": history.end, "dropped": self.dropped}

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        """Go on from a saved state; of more observations than fit, the newest are kept.

        Args:
            state: what `state_dict` returned.

        Raises:
            ValueError: the state is no buffer's; nothing is changed then.
        """
        try:
            rows = np.asarray(state["rows"], dtype=np.float64).reshape(-1, len(COLUMNS))
            count, dropped = int(state["count"]), int(state["dropped"])
        except (KeyError, TypeError, ValueError) as error:
            raise ValueError(f"this is no saved observation buffer: {error!r}") from None
        if count < len(rows) or dropped < 0 or not np.all(np.isfinite(rows)):
            raise ValueError("the saved observation buffer contradicts itself")
        rows = rows[-self.capacity :]
        with self._lock:
            self._rows[np.arange(count - len(rows), count) % self.capacity] = rows
            self._first, self.count, self.dropped = count - len(rows), count, dropped
