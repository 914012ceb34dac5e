"""The last windows of a server, for its live page."""

from __future__ import annotations

from collections import deque
from typing import Any

from batchpilot.core.metrics import WindowMetrics

_SHOWN = (
    "end_ms",
    "queue",
    "running",
    "queued_tokens",
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
    "refusals",
    "failures",
)


class History:
    """The last windows, for the live page.

    Args:
        windows: how many.
    """

    def __init__(self, windows: int = 180) -> None:
        self._windows: deque[WindowMetrics] = deque(maxlen=windows)

    def add(self, window: WindowMetrics) -> None:
        """Remember a window.

        Args:
            window: the latest.
        """
        self._windows.append(window)

    def rows(self) -> list[dict[str, Any]]:
        """What the page shows of each, oldest first."""
        return [
            {
                **{name: getattr(window, name) for name in _SHOWN},
                "batch_size": window.limits.batch_size,
            }
            for window in tuple(self._windows)
        ]
