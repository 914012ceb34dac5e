"""A roll-out: a new version gets a growing share of the users, and none at all once it serves worse. Times in ms."""

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


CERTAIN_OF_PROMISES = 2.6
"""Standard errors by which it may keep fewer promises than the old version on the same share: asked once a share, and
over all shares no better chance of taking back what is no worse than 2 errors asked once would have."""


@dataclass(slots=True)
class _Tally:
    ended: int = 0
    failures: int = 0
    asked: int = 0
    kept: int = 0

    def begin_share(self) -> None:
        """Promises are counted anew: what load came at another time says nothing of this share."""
        self.asked = self.kept = 0


def _errors_above(new_bad: int, new: int, old_bad: int, old: int) -> float:
    """By how many standard errors the share of what went badly is above that of the old version."""
    above = new_bad / max(new, 1) - old_bad / max(old, 1)
    both = (new_bad + old_bad) / max(new + old, 1)
    error = math.sqrt(both * (1.0 - both) * (1.0 / max(new, 1) + 1.0 / max(old, 1)))
    return above / error if error > 0 else math.copysign(math.inf, above) if above else 0.0


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

    def hear(self, version: int, *, failed: bool, kept: bool, refused: bool = False, now_ms: float) -> None:
        """A request was served, failed or was refused.

        Args:
            version: that answered.
            failed: whether it failed.
            kept: whether it was served within its promise.
            refused: whether it was turned away, which fails nobody but keeps no promise.
            now_ms: the present.
        """
        if version not in self._tallies or self.verdict != "running":
            return
        tally = self._tallies[version]
        tally.asked += 1
        tally.kept += kept
        if refused:
            return
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
        elif self._breaks_more():
            new, old = self._tallies[self.new], self._tallies[self.old]
            told = f"{new.kept} of {new.asked} promises were kept at share {self.share:g}"
            self.roll_back(f"{told}, {old.kept} of {old.asked} of version {self.old}")
        elif self._stage + 1 < len(SHARES):
            self._stage, self._on_share, self._since_ms = self._stage + 1, 0, now_ms
            for tally in self._tallies.values():
                tally.begin_share()
            self.reason = f"share {self.share:g} from now on"
        else:
            self.verdict, self.reason = "promoted", "no more failures or broken promises than before on any share"

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
            "asked_on_share": {str(version): tally.asked for version, tally in self._tallies.items()},
            "kept_on_share": {str(version): tally.kept for version, tally in self._tallies.items()},
        }

    def _is_worse(self) -> bool:
        new, old = self._tallies[self.new], self._tallies[self.old]
        if new.failures < MOST_FAILURES:
            return False
        return _errors_above(new.failures, new.ended, old.failures, old.ended) >= CERTAIN

    def _breaks_more(self) -> bool:
        new, old = self._tallies[self.new], self._tallies[self.old]
        if min(new.asked, old.asked) < FEWEST_ENDED:
            return False
        broken = (new.asked - new.kept, new.asked, old.asked - old.kept, old.asked)
        return _errors_above(*broken) >= CERTAIN_OF_PROMISES
