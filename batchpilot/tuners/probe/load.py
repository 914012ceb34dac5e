"""Load changes: whether requests now arrive at another rate than when the size was judged. Times in ms.

Arrivals are counted in two stretches, the last few windows and everything before them. A change of the rate counts
when it exceeds `load_change_threshold` *and* four standard deviations of a Poisson count, so that the chance clumps of
a slow but steady stream are no change.

Source: dynamic batch tuner document, load change (SPEC 1); the significance test is ours.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from typing import Any

RECENT_WINDOWS = 5
DEVIATIONS = 4.0


class LoadTracker:
    """Arrival rate of the last few windows against the rate before them."""

    def __init__(self) -> None:
        self._recent: list[tuple[float, float]] = []
        self._past_arrivals = 0.0
        self._past_ms = 0.0
        self._past_windows = 0

    def changed(self, arrivals: float, duration_ms: float, threshold: float) -> bool:
        """Hear one window and say whether the load has changed.

        Args:
            arrivals: requests that arrived in it.
            duration_ms: its length.
            threshold: relative change that counts.
        """
        self._recent.append((arrivals, duration_ms))
        if len(self._recent) > RECENT_WINDOWS:
            old_arrivals, old_ms = self._recent.pop(0)
            self._past_arrivals += old_arrivals
            self._past_ms += old_ms
            self._past_windows += 1
        if self._past_windows < RECENT_WINDOWS:
            return False
        count = recent_ms = 0.0
        for arrived, took_ms in self._recent:
            count += arrived
            recent_ms += took_ms
        share = recent_ms / self._past_ms
        expected = self._past_arrivals * share
        # The expectation is itself a count, which adds `share` of its own variance.
        deviation = math.sqrt(max(expected, 1.0) * (1.0 + share))
        return abs(count - expected) > max(threshold * expected, DEVIATIONS * deviation)

    def rebase(self) -> None:
        """Take the last windows' load as the new reference."""
        self._past_arrivals = self._past_ms = 0.0
        self._past_windows = 0
        self._recent.clear()

    def state_dict(self) -> dict[str, Any]:
        """The counts as plain data."""
        return {
            "recent": [list(window) for window in self._recent],
            "past_arrivals": self._past_arrivals,
            "past_ms": self._past_ms,
            "past_windows": self._past_windows,
        }

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        """Go on from saved counts.

        Args:
            state: what `state_dict` returned.

        Raises:
            KeyError: a field is missing.
        """
        self._recent = [(arrivals, duration_ms) for arrivals, duration_ms in state["recent"]]
        self._past_arrivals = state["past_arrivals"]
        self._past_ms = state["past_ms"]
        self._past_windows = state["past_windows"]
