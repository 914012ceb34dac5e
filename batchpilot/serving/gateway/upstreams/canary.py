"""A roll-out: a new version gets a growing share of the users, and none at all once it fails more. Times in ms."""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Any

SHARES = (0.1, 0.3, 0.5, 0.7, 1.0)
"""Source: inference basics document, roll-out."""

FEWEST_ENDED = 30
"""Requests of the new version that must have ended on a share before the next."""

MOST_FAILURES, CERTAIN = 3, 2.0
"""It goes back on so many failures, if their share is above the old version's by so many standard errors."""


@dataclass(slots=True)
class _Tally:
    ended: int = 0
    failures: int = 0

    @property
    def rate(self) -> float:
        return self.failures / self.ended if self.ended else 0.0


class Ladder:
    """Where a roll-out stands.

    Args:
        new: the version on trial.
        old: the version that it takes over from.
        now_ms: the present.
        stage_ms: how long each share stands at least.

    Attributes:
        new: as given.
        old: as given.
        verdict: `running`, `promoted` or `rolled back`.
        reason: why.
    """

    def __init__(self, new: int, old: int, now_ms: float, stage_ms: float = 60_000.0) -> None:
        self.new, self.old = new, old
        self.verdict, self.reason = "running", "the roll-out has begun"
        self._stage_ms, self._since_ms = stage_ms, now_ms
        self._stage = 0
        self._on_share = 0
        self._tallies = {new: _Tally(), old: _Tally()}

    @property
    def share(self) -> float:
        """Of the users, that get the new version."""
        return 0.0 if self.verdict == "rolled back" else SHARES[self._stage]

    def version_at(self, place: float) -> int:
        """The version of a user; who has the new one keeps it as the share grows.

        Args:
            place: of the user, in [0, 1).
        """
        return self.new if place < self.share else self.old

    def hear(self, version: int, *, failed: bool, now_ms: float) -> None:
        """A request was served, or failed.

        Args:
            version: that answered.
            failed: whether it failed.
            now_ms: the present.
        """
        if version not in self._tallies or self.verdict != "running":
            return
        tally = self._tallies[version]
        tally.ended += 1
        tally.failures += failed
        self._on_share += version == self.new
        if self._is_worse():
            new, old = self._tallies[self.new], self._tallies[self.old]
            self.roll_back(f"{new.failures} of {new.ended} failed, {old.failures} of {old.ended} of version {self.old}")
        else:
            self.look(now_ms)

    def look(self, now_ms: float) -> None:
        """Go on to the next share when its time has come and enough requests have ended.

        Args:
            now_ms: the present.
        """
        if self.verdict != "running" or now_ms - self._since_ms < self._stage_ms:
            return
        if self._on_share < FEWEST_ENDED:
            self.reason = f"{self._on_share} requests have ended at share {self.share:g}; {FEWEST_ENDED} are needed"
        elif self._stage + 1 < len(SHARES):
            self._stage, self._on_share, self._since_ms = self._stage + 1, 0, now_ms
            self.reason = f"share {self.share:g} from now on"
        else:
            self.verdict, self.reason = "promoted", "no more failures than before on any share"

    def roll_back(self, reason: str) -> None:
        """Everybody gets the old version.

        Args:
            reason: why.
        """
        self.verdict, self.reason = "rolled back", reason

    def status(self) -> dict[str, Any]:
        """As plain data."""
        return {
            "version": self.new,
            "from": self.old,
            "share": self.share,
            "verdict": self.verdict,
            "reason": self.reason,
            "ended": {str(version): tally.ended for version, tally in self._tallies.items()},
            "failures": {str(version): tally.failures for version, tally in self._tallies.items()},
        }

    def _is_worse(self) -> bool:
        new, old = self._tallies[self.new], self._tallies[self.old]
        if new.failures < MOST_FAILURES or new.rate <= old.rate:
            return False
        both = (new.failures + old.failures) / (new.ended + old.ended)
        error = math.sqrt(both * (1.0 - both) * (1.0 / new.ended + 1.0 / max(old.ended, 1)))
        return new.rate - old.rate >= CERTAIN * error
