"""A token bucket for each API key: who asks for more than flows in is told when to come again. Times in s."""

from __future__ import annotations

import math
from collections import OrderedDict
from collections.abc import Mapping

from batchpilot.fleet.rate_limit import RateLimit

MOST_KEYS = 10_000
"""The one that asked longest ago is forgotten first; it would mostly be full again."""

_KEYS = ("authorization", "x-api-key", "api-key")


def key_of(headers: Mapping[str, str]) -> str:
    """The API key of a request, "" for none.

    Args:
        headers: by lower-case name.
    """
    return next((headers[name] for name in _KEYS if headers.get(name)), "")


def parse_rate_limit(text: str) -> RateLimit:
    """A rate limit as typed: `1000,20000` for tokens a second and the burst.

    Args:
        text: as typed.

    Raises:
        ValueError: no two numbers above 0.
    """
    rate, _, burst = text.partition(",")
    try:
        return RateLimit(float(rate), float(burst))
    except ValueError as error:
        raise ValueError(f"rate limit is {text!r} ({error}); write TOKENS_PER_S,BURST, as 1000,20000") from None


class Buckets:
    """The buckets of all keys.

    Args:
        limit: of each.

    Attributes:
        refused: how often somebody was told to wait.
    """

    def __init__(self, limit: RateLimit) -> None:
        self.refused = 0
        self._limit = limit
        self._levels: OrderedDict[str, tuple[float, float]] = OrderedDict()

    def take(self, key: str, tokens: float, now_s: float) -> float:
        """Take tokens out, or say when they will be there.

        A request larger than the burst goes once the bucket is full, and leaves a debt.

        Args:
            key: whose bucket.
            tokens: of the prompt and the output.
            now_s: the present.

        Returns:
            0 when they were taken, else the s to wait.
        """
        rate, burst = self._limit.tokens_per_s, self._limit.burst_tokens
        level, then_s = self._levels.pop(key, (burst, now_s))
        level = min(level + rate * (now_s - then_s), burst)
        lacking = min(tokens, burst) - level
        taken = lacking <= 1e-9
        self._levels[key] = (level - tokens if taken else level, now_s)
        if len(self._levels) > MOST_KEYS:
            self._levels.popitem(last=False)
        self.refused += not taken
        return 0.0 if taken else max(lacking / rate, math.ulp(1.0))
