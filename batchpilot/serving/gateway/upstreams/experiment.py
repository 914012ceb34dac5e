"""Which version a user gets, always the same one, and what came of each version's requests. Times in ms."""

from __future__ import annotations

import hashlib
import math
from collections import Counter
from collections.abc import Mapping
from typing import Any

from batchpilot.serving.gateway.figures import Figures

_BYTES = 8


def place(user: str) -> float:
    """Where a user stands in [0, 1): the same in every process and for ever.

    Args:
        user: any text.
    """
    digest = hashlib.blake2b(user.encode(errors="replace"), digest_size=_BYTES, person=b"experiment").digest()
    return int.from_bytes(digest) / 2.0 ** (8 * _BYTES)


def assigned(shares: Mapping[int, float], at: float) -> int:
    """The version of whoever stands at a place; -1 without shares.

    Args:
        shares: by version, in any unit.
        at: in [0, 1).
    """
    left = at * sum(shares.values())
    for version, share in sorted(shares.items()):
        if left < share:
            return version
        left -= share
    return max((version for version, share in shares.items() if share > 0), default=-1)


class Variant:
    """What came of one version's requests, each counted once however often it was tried.

    Attributes:
        ended: by how they ended for their client.
        figures: how long they took.
        kept: requests within their promise.
    """

    def __init__(self) -> None:
        self.ended: Counter[str] = Counter()
        self.figures = Figures()

    @property
    def failures(self) -> int:
        """Requests that failed."""
        return self.ended["failed"]

    @property
    def judged(self) -> int:
        """Requests whose end says something of the version: served or failed."""
        return self.ended["finished"] + self.ended["failed"]

    def hear(self, outcome: str, ttft_ms: float, e2e_ms: float, *, kept: bool) -> None:
        """A request has ended.

        Args:
            outcome: as `Observer.ended` counts it.
            ttft_ms: time to its first token, NaN for none.
            e2e_ms: time to its end.
            kept: whether its promise was.
        """
        self.ended[outcome] += 1
        if outcome == "finished":
            self.figures.served(ttft_ms, math.nan, e2e_ms, kept=kept)
        elif outcome == "failed":
            self.figures.failed(e2e_ms)

    def status(self) -> dict[str, Any]:
        """As plain data."""
        return {
            "ended": dict(self.ended),
            "kept_promises": self.figures.kept_promises,
            **self.figures.percentiles(),
        }
