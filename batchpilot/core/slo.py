"""Service level objectives: how long a request may wait for its first token, and for each token after it."""

from __future__ import annotations

import math
from dataclasses import dataclass


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
