"""What a request asks of the choice of its tokens."""

from __future__ import annotations

import math
from dataclasses import dataclass


@dataclass(frozen=True, slots=True)
class Sampling:
    """How tokens are chosen and when a request stops.

    Attributes:
        temperature: 0 for the likeliest token, >= 0.
        top_p: draw from the likeliest tokens that together have this probability, in (0, 1].
        seed: of the draws.
        stop_token_ids: a request that emits one of them says no more; without any it runs to its output length. In a
            padded batch it keeps its place until all are done.
        logprobs: tell the log probability of each token, and of so many of the likeliest beside it, >= 0; None to tell
            nothing.
        schema: the output is JSON that obeys this JSON schema, as text; None for anything. It ends with a stop token,
            so there must be one.

    Raises:
        ValueError: a value is outside its bound; the message names it.
    """

    temperature: float = 0.0
    top_p: float = 1.0
    seed: int = 0
    stop_token_ids: tuple[int, ...] = ()
    logprobs: int | None = None
    schema: str | None = None

    def __post_init__(self) -> None:
        if not (math.isfinite(self.temperature) and self.temperature >= 0):
            raise ValueError(f"temperature is {self.temperature}; it must be >= 0 (0 for greedy)")
        if not 0 < self.top_p <= 1:
            raise ValueError(f"top_p is {self.top_p}; it must be above 0 and at most 1")
        if self.logprobs is not None and self.logprobs < 0:
            raise ValueError(f"logprobs is {self.logprobs}; it must be >= 0, or None to tell nothing")
        if self.schema is not None and not self.stop_token_ids:
            raise ValueError("an output that obeys a schema ends with a stop token, and there is none")
