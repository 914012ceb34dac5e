"""Windows that cannot be believed: numbers that are not finite, counts below zero, time that stands or goes back."""

from __future__ import annotations

import math
from operator import attrgetter

from batchpilot.core.metrics import METRIC_NAMES, WindowMetrics

MAY_BE_NAN = frozenset(
    name for name in METRIC_NAMES if name.startswith(("step_ms", "ttft_", "tpot_")) or name == "slo_attainment"
)
"""NaN stands for "no sample" there."""

_NEVER_NAN = tuple(name for name in METRIC_NAMES if name not in MAY_BE_NAN and name != "start_ms")
_never_nan = attrgetter(*_NEVER_NAN)
_percentiles = attrgetter(*(name for name in METRIC_NAMES if name in MAY_BE_NAN))
_HUGE = 1e15
_CLOCK_SLACK_MS = 1e-3
"""Clocks that add up durations differ by rounding."""


class WindowClock:
    """Follows the time of windows, and says what is odd about one."""

    def __init__(self) -> None:
        self.end_ms = -math.inf

    def oddity(self, window: WindowMetrics) -> str | None:
        """What is wrong with a window, None if nothing is; only then does time go on.

        Args:
            window: any window.
        """
        values = _never_nan(window)
        if not (min(values) >= 0.0 and sum(values) < _HUGE):
            return f"{_first_odd(window, values)} is no measurement"
        for value in _percentiles(window):
            if value < 0.0:
                return f"a latency or share is {value}"
        if not window.duration_ms > 0.0:
            return "its length is zero"
        if not self.end_ms - _CLOCK_SLACK_MS <= window.start_ms < _HUGE:
            return f"it begins at {window.start_ms:.0f} ms, before {self.end_ms:.0f} ms"
        self.end_ms = window.end_ms
        return None


def _first_odd(window: WindowMetrics, values: tuple[float, ...]) -> str:
    for name, value in zip(_NEVER_NAN, values, strict=True):
        if not 0.0 <= value < _HUGE:
            return f"{name}={value}"
    return "the sum of all counts"
