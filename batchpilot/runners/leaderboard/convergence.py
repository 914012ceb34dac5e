"""When a tuner's batch size settled, and how still it stood afterwards."""

from __future__ import annotations

import math
from collections.abc import Sequence

import numpy as np

from batchpilot.core.metrics import WindowMetrics

STABLE_FRACTION = 0.10
"""SPEC 1: batch-size standard deviation over mean, once stable."""

_SETTLED_SHARE = 0.25


def convergence(windows: Sequence[WindowMetrics]) -> tuple[float, float]:
    """Engine time after which the batch size's std/mean stays within 10 % to the end, and that std/mean.

    The settled part must hold at least the last quarter of the windows; otherwise the size never settled.

    Args:
        windows: every window of a run, in order.

    Returns:
        Convergence time in seconds and std/mean of the batch size from then on; NaN for both if it never settled.
    """
    if not windows:
        return math.nan, math.nan
    sizes = np.array([window.limits.batch_size for window in windows], dtype=np.float64)[::-1]
    count = np.arange(1, len(sizes) + 1)
    mean = np.cumsum(sizes) / count
    variance = np.maximum(np.cumsum(sizes**2) / count - mean**2, 0.0)
    spread = (np.sqrt(variance) / mean)[::-1]
    settled = np.flatnonzero(spread[: max(1, math.ceil((1 - _SETTLED_SHARE) * len(windows)))] <= STABLE_FRACTION)
    if len(settled) == 0:
        return math.nan, math.nan
    first = int(settled[0])
    return (windows[first].start_ms - windows[0].start_ms) / 1000.0, float(spread[first])
