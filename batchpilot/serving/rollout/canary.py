"""A new tuner on trial: it decides a share of the windows, and goes if they are worse.

One engine runs with one setting at a time, so the share is one of time: blocks of windows, decided in turns. The first
window of a block still bears what the other left behind and is not judged.
"""

from __future__ import annotations

import math
from collections import deque
from dataclasses import dataclass
from typing import Any

from batchpilot.core import WindowMetrics

BLOCK_WINDOWS = 4
FEWEST_ENDED = 30
"""Requests that must have ended on either side before attainments are compared, and before anything is promoted."""

WORSE_BY, CERTAIN = 0.02, 2.0
"""A trial is worse when its SLO attainment is lower by this much and by so many standard errors."""

MOST_FAILURES = 3
_REMEMBERED = 60


@dataclass(slots=True)
class Tally:
    """What windows of one side came to.

    Attributes:
        windows: how many were judged.
        met: requests that ended within their SLO.
        ended: requests that ended, refused and failed ones included.
        failures: failed steps.
    """

    windows: int = 0
    met: float = 0.0
    ended: int = 0
    failures: int = 0

    def add(self, window: WindowMetrics) -> None:
        """Count a window.

        Args:
            window: of this side.
        """
        ended = window.completions + window.refusals + window.failed_requests
        self.windows += 1
        self.failures += window.failures
        if ended and not math.isnan(window.slo_attainment):
            self.ended += ended
            self.met += window.slo_attainment * ended

    @property
    def attainment(self) -> float:
        """Share of requests within their SLO, NaN without any."""
        return self.met / self.ended if self.ended else math.nan


class Record:
    """The last windows of a tuner that decides alone: what a trial of every window is held against."""

    def __init__(self) -> None:
        self._windows: deque[WindowMetrics] = deque(maxlen=_REMEMBERED)

    def add(self, window: WindowMetrics) -> None:
        """Remember a window.

        Args:
            window: of the tuner.
        """
        self._windows.append(window)

    def tally(self) -> Tally:
        """What they came to."""
        tally = Tally()
        for window in self._windows:
            tally.add(window)
        return tally


class Canary:
    """Whose turn it is, and how the trial goes.

    Args:
        share: of the windows that the new tuner decides, above 0 and at most 1.
        before: windows of the old one before the trial, for a share of 1; otherwise it is judged by its turns.
        promote_after: judged windows of the new tuner after which it stays for good, >= 1, once enough requests have
            ended on either side.

    Attributes:
        share: as given.
        verdict: "running", "promoted" or "rolled back".
        reason: why.

    Raises:
        ValueError: the share is not above 0 and at most 1, or promote_after is below 1.
    """

    def __init__(self, share: float, before: Record, promote_after: int = 30) -> None:
        if not 0 < share <= 1:
            raise ValueError(f"share is {share}; it must be above 0 and at most 1")
        if promote_after < 1:
            raise ValueError(f"promote_after is {promote_after}; it must be >= 1 window")
        self.share = share
        self.verdict, self.reason = "running", "the trial has begun"
        self._promote_after = promote_after
        self._new, self._old = Tally(), before.tally() if share == 1 else Tally()
        self._windows = 0
        self._turn = share == 1

    @property
    def new_decides(self) -> bool:
        """Whether the new tuner decides the next window."""
        return self._turn

    def hear(self, window: WindowMetrics) -> None:
        """Count the window that was decided by whose turn it was, and see whose turn is next.

        Args:
            window: its limits are those in force, whoever asked for them.
        """
        first = self._windows % BLOCK_WINDOWS == 0
        if not first or self.share == 1:
            (self._new if self._turn else self._old).add(window)
        self._windows += 1
        if self._windows % BLOCK_WINDOWS == 0:
            block = self._windows // BLOCK_WINDOWS
            # Blocks are dealt so that any run of them holds the share as nearly as whole blocks can.
            self._turn = math.floor((block + 1) * self.share + 1e-9) > math.floor(block * self.share + 1e-9)
        self._judge()

    def fail(self, reason: str) -> None:
        """The new tuner raised: the trial is over.

        Args:
            reason: what it raised.
        """
        self.verdict, self.reason, self._turn = "rolled back", reason, False

    def status(self) -> dict[str, Any]:
        """How it goes, as plain data."""
        sides = {"new": self._new, "old": self._old}
        return {
            "share": self.share,
            "verdict": self.verdict,
            "reason": self.reason,
            "promote_after": self._promote_after,
            **{
                name: {
                    "windows": tally.windows,
                    "ended": tally.ended,
                    "slo_attainment": tally.attainment if tally.ended else None,
                    "failures": tally.failures,
                }
                for name, tally in sides.items()
            },
        }

    def _judge(self) -> None:
        new, old = self._new, self._old
        old_rate = old.failures / max(old.windows, 1)
        if new.failures >= MOST_FAILURES and new.failures / new.windows > 2 * old_rate:
            self.fail(f"{new.failures} failed steps in {new.windows} windows, {old.failures} in {old.windows} before")
        elif self._is_worse():
            self.fail(f"SLO attainment {new.attainment:.3f} in its windows, {old.attainment:.3f} in the others")
        elif new.windows >= self._promote_after and min(new.ended, old.ended) < FEWEST_ENDED:
            self.reason = (
                f"{new.ended} requests ended in its windows, {old.ended} in the others; {FEWEST_ENDED} are needed"
            )
        elif new.windows >= self._promote_after:
            self.verdict, self.reason = "promoted", f"no worse in {new.windows} windows"

    def _is_worse(self) -> bool:
        new, old = self._new, self._old
        if min(new.ended, old.ended) < FEWEST_ENDED:
            return False
        both = (new.met + old.met) / (new.ended + old.ended)
        error = math.sqrt(both * (1 - both) * (1 / new.ended + 1 / old.ended))
        lower_by = old.attainment - new.attainment
        return lower_by > WORSE_BY and lower_by > CERTAIN * error
