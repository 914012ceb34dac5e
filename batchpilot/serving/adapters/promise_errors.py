"""How far what was predicted of requests is usually from what became of them. Times in ms.

Steps scatter more than requests, which are many steps long, and between steps an engine has other work that no step
shows: so what keeps a promise from being missed is learned from promises.
"""

from __future__ import annotations

import math
from collections.abc import Hashable

_MEMORY = 20.0
"""Requests after which one counts for 1/e."""

FEWEST_REQUESTS = 5
"""Below so many nothing is known."""

ALL_BUT_ONE_IN_TWENTY = 2.0
"""So many mean absolute errors above the mean; a normal distribution has 5 % beyond 2.06 of them."""


class PromiseErrors:
    """Learns how late first tokens come, and how much slower tokens follow one another, than predicted.

    Attributes:
        handover_ms: what lies between client and scheduler on the way in, fading mean; taken for the way out as well.
    """

    def __init__(self) -> None:
        self.handover_ms = 0.0
        self._expected: dict[Hashable, float] = {}
        self._speaking: dict[Hashable, tuple[float, float]] = {}
        self._firsts = self._paces = 0
        self._late_ms = self._late_error_ms = 0.0
        self._predicted_ms = self._taken_ms = self._pace_error_ms = 0.0

    @property
    def lateness_ms(self) -> float:
        """What nineteen first tokens of twenty come later than predicted at most, >= 0; NaN while unknown."""
        if self._firsts < FEWEST_REQUESTS:
            return math.nan
        return max(self._late_ms + ALL_BUT_ONE_IN_TWENTY * self._late_error_ms, 0.0)

    @property
    def pace(self) -> float:
        """Times what was predicted of their steps that nineteen texts of twenty take at most; NaN while unknown."""
        if self._paces < FEWEST_REQUESTS:
            return math.nan
        return (self._taken_ms + ALL_BUT_ONE_IN_TWENTY * self._pace_error_ms) / self._predicted_ms

    def hear_handover(self, waited_ms: float) -> None:
        """A request has reached the scheduler.

        Args:
            waited_ms: since it came to the server.
        """
        self.handover_ms += (waited_ms - self.handover_ms) / _MEMORY

    def expect(self, request: Hashable, first_ms: float) -> None:
        """A request may be let in.

        Args:
            request: its id.
            first_ms: when its first token is due, if it is let in now.
        """
        self._expected[request] = first_ms

    def hear_first(self, request: Hashable, now_ms: float, predicted_ms: float) -> None:
        """A request's first token has come.

        Args:
            request: its id.
            now_ms: the present.
            predicted_ms: of all steps until now, together.
        """
        self._speaking[request] = now_ms, predicted_ms
        due_ms = self._expected.pop(request, None)
        if due_ms is not None:
            self._firsts += 1
            share = 1.0 / min(self._firsts, _MEMORY)
            late_ms = now_ms - due_ms
            self._late_error_ms += share * (abs(late_ms - self._late_ms) - self._late_error_ms)
            self._late_ms += share * (late_ms - self._late_ms)

    def hear_finish(self, request: Hashable, now_ms: float, predicted_ms: float) -> None:
        """A request has said everything.

        Args:
            request: its id.
            now_ms: the present.
            predicted_ms: of all steps until now, together.
        """
        began = self._speaking.pop(request, None)
        if began is None or not predicted_ms > began[1]:
            return
        taken_ms, should_ms = now_ms - began[0], predicted_ms - began[1]
        usual = self._taken_ms / self._predicted_ms if self._paces else taken_ms / should_ms
        keep = math.exp(-1.0 / _MEMORY)
        self._paces += 1
        self._predicted_ms = keep * self._predicted_ms + should_ms
        self._taken_ms = keep * self._taken_ms + taken_ms
        self._pace_error_ms = keep * self._pace_error_ms + abs(taken_ms - usual * should_ms)

    def forget(self, request: Hashable) -> None:
        """A request has ended otherwise.

        Args:
            request: any id.
        """
        self._expected.pop(request, None)
        self._speaking.pop(request, None)
