"""How much one user may ask for: simulation and gateway hold the same bucket."""

from __future__ import annotations

import math
from dataclasses import dataclass


@dataclass(frozen=True, slots=True)
class RateLimit:
    """A user's token bucket, in tokens of prompt and expected output.

    Attributes:
        tokens_per_s: that flow in, > 0.
        burst_tokens: that it holds, and starts with, > 0.

    Raises:
        ValueError: a value is not above 0.
    """

    tokens_per_s: float
    burst_tokens: float

    def __post_init__(self) -> None:
        for name in ("tokens_per_s", "burst_tokens"):
            value = getattr(self, name)
            if not (math.isfinite(value) and value > 0):
                raise ValueError(f"{name} of a rate limit is {value}; it must be above 0")
