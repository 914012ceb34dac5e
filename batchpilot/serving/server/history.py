"""The last windows of a server, for its live page."""

from __future__ import annotations

import math
from collections import deque
from typing import Any

from batchpilot.core.metrics import WindowMetrics

_SHOWN = (
    "end_ms",
    "duration_ms",
    "arrivals",
    "completions",
    "refused_on_arrival",
    "refused_by_guard",
    "failed_requests",
    "failures",
    "queue",
    "running",
    "oldest_wait_ms",
    "ttft_ms_p50",
    "ttft_ms_p95",
    "tpot_ms_p50",
    "tpot_ms_p95",
    "ttft_target_ms",
    "tpot_target_ms",
    "slo_attainment",
    "goodput_tokens_per_s",
    "throughput_tokens_per_s",
    "kv_used_fraction",
    "utilisation",
)


class History:
    """The last windows, for the live page.

    Args:
        windows: how many.
    """

    def __init__(self, windows: int = 300) -> None:
        self._windows: deque[WindowMetrics] = deque(maxlen=windows)

    def add(self, window: WindowMetrics) -> None:
        """Remember a window.

        Args:
            window: the latest.
        """
        self._windows.append(window)

    def rows(self, after_ms: float = -math.inf) -> list[dict[str, Any]]:
        """What the page shows of each, oldest first.

        Args:
            after_ms: only windows that ended later.
        """
        return [
            {**{name: getattr(window, name) for name in _SHOWN}, "batch_size": window.limits.batch_size}
            for window in tuple(self._windows)
            if window.end_ms > after_ms
        ]
