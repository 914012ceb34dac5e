"""Service level objectives: how long a request may wait for its first token, and for each token after it.

Times in ms. Requests bring promises of their own, so a figure over them is one that no few of them can set.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray


@dataclass(frozen=True, slots=True)
class SLO:
    """The latency that a request was promised.

    Attributes:
        ttft_ms: time to first token, from arrival, > 0; `math.inf` for no promise.
        tpot_ms: mean time per output token after the first, > 0; `math.inf` for no promise.
        name: what a report calls it.

    Raises:
        ValueError: a target is not above zero.
    """

    ttft_ms: float = 2000.0
    tpot_ms: float = 100.0
    name: str = "interactive"

    def __post_init__(self) -> None:
        for field in ("ttft_ms", "tpot_ms"):
            value = getattr(self, field)
            if math.isnan(value) or value <= 0:
                raise ValueError(f"{field} of SLO {self.name!r} is {value}; it must be above 0 ms (inf for no promise)")


SLO_CLASSES: dict[str, SLO] = {
    "realtime": SLO(500.0, 50.0, "realtime"),
    "interactive": SLO(2000.0, 100.0, "interactive"),
    "batch": SLO(10000.0, 500.0, "batch"),
}
"""TTFT targets of the batching document (0.5, 2 and 10 s); it names no TPOT targets, so those are ours."""

FURTHEST_APART = 8.0
"""How far a promise may lie from the median, as a factor, and still count as it is."""

FURTHEST_FROM_OPERATOR = 16.0
"""How far a figure over promises may lie from what the operator promised; the classes lie a tenfold apart."""

SHORTEST_TARGET_MS, LONGEST_TARGET_MS = 1e-3, 1e9
"""No engine computes a step sooner, and eleven days are no promise: what lies beyond is nothing to steer by."""


def can_be_aimed_at(target_ms: float) -> bool:
    """Whether a tuner can steer by a latency target: it is a time that an engine could keep or miss.

    Args:
        target_ms: anything a window may tell, NaN and infinity included.
    """
    return SHORTEST_TARGET_MS <= target_ms <= LONGEST_TARGET_MS


def typical_target(targets: Sequence[float] | NDArray[np.float64]) -> float:
    """One figure for the latency targets of many requests, which a few of them cannot set.

    Args:
        targets: in ms, shape (n,); infinite is no promise, and what is not above zero is no target.

    Returns:
        `typical_of_sorted`; NaN without targets.
    """
    told = np.asarray(targets, np.float64)
    return float(typical_of_sorted(np.sort(told[told > 0]).tolist()))


def typical_of_sorted(ascending: Sequence[float] | NDArray[np.float64]) -> float:
    """Mean of the middle half of the finite targets, none of them taken to lie further than a factor from the median.

    A quarter of the requests, and those that were promised nothing, cannot move it; others only as far as that factor.
    Plain enough to be compiled.

    Args:
        ascending: targets in ms, above 0, sorted; infinite is no promise.

    Returns:
        NaN without targets, infinity where all are infinite.
    """
    n = len(ascending)
    if n == 0:
        return math.nan
    while n > 0 and ascending[n - 1] == math.inf:
        n -= 1
    if n == 0:
        return math.inf
    if ascending[n // 4] == ascending[n - n // 4 - 1]:
        return ascending[n // 4]
    median = 0.5 * ascending[(n - 1) // 2] + 0.5 * ascending[n // 2]
    total = 0.0
    for k in range(n // 4, n - n // 4):
        total += min(max(ascending[k], median / FURTHEST_APART), FURTHEST_APART * median)
    return total / (n - n // 4 - n // 4)


def within_promise(target_ms: float, promised_ms: float | None) -> float:
    """A figure over requests' targets, held near what the operator promised.

    Args:
        target_ms: the figure; NaN or infinite for none.
        promised_ms: the operator's target; None or infinite for no bound.

    Returns:
        The operator's target where the figure is none.
    """
    if promised_ms is None or not math.isfinite(promised_ms):
        return target_ms
    if not math.isfinite(target_ms):
        return promised_ms
    return min(max(target_ms, promised_ms / FURTHEST_FROM_OPERATOR), promised_ms * FURTHEST_FROM_OPERATOR)
