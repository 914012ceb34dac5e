"""Collapse guard: back to the base limits when far fewer requests meet their SLO than under those."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from batchpilot.core import Limits, WindowMetrics

COLLAPSED = 0.25
"""Share of the reference below which attainment has collapsed. Low, since a heavier load lowers it under any limits."""

JUDGED_ENDED = 50
"""Requests that must have ended before attainment is judged."""

KEEP = 0.9
"""Weight that an earlier window keeps with each new one."""

HOLD_WINDOWS = 20
LONGEST_HOLD_WINDOWS = 320


class CollapseGuard:
    """Holds the base limits for a while after a collapse, and longer each time.

    The reference is what the first requests met, and after that whatever is met under the base limits. So each visit
    measures them anew: under an overload that no limits can serve, the reference sinks and the guard lets go.

    Args:
        base: where to return to.
    """

    name = "collapse"
    replaces = True

    def __init__(self, base: Limits) -> None:
        self._base = base
        self.reset()

    def hear(self, window: WindowMetrics) -> None:
        """Follow attainment and the reference.

        Args:
            window: the window.
        """
        if self._left > 0:
            self._left -= 1
        attained = window.slo_attainment
        if 0.0 <= attained <= 1.0:
            self._follow(attained, _ended(window), window.limits == self._base)

    def allow(self, proposed: Limits) -> Limits:
        """The proposed limits, or the base while it holds.

        Args:
            proposed: what the tuner asks for.
        """
        return self._base if self._left > 0 and proposed != self._base else proposed

    def reset(self) -> None:
        """Forget every window."""
        self._reference: float | None = None
        self._ended = self._met = 0.0
        self._left = 0
        self._hold = HOLD_WINDOWS
        self.reason = ""

    def state_dict(self) -> dict[str, Any]:
        """Reference, attainment and hold as plain data."""
        return {
            "reference": self._reference,
            "ended": self._ended,
            "met": self._met,
            "left": self._left,
            "hold": self._hold,
            "reason": self.reason,
        }

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        """Go on from a saved state.

        Args:
            state: what `state_dict` returned.

        Raises:
            KeyError: a field is missing.
        """
        reference = state["reference"]
        self._reference = None if reference is None else float(reference)
        self._ended, self._met = float(state["ended"]), float(state["met"])
        self._left, self._hold, self.reason = int(state["left"]), int(state["hold"]), str(state["reason"])

    def _follow(self, attained: float, ended: float, at_base: bool) -> None:
        self._ended = KEEP * self._ended + ended
        self._met = KEEP * self._met + ended * attained
        if self._ended < JUDGED_ENDED:
            return
        attainment = self._met / self._ended
        if self._reference is None or at_base:
            self._reference = attainment
        elif self._left == 0 and attainment < COLLAPSED * self._reference:
            self.reason = f"back to the base limits: {attainment:.0%} met their SLO, {self._reference:.0%} did before"
            self._left, self._hold = self._hold, min(2 * self._hold, LONGEST_HOLD_WINDOWS)
            self._ended = self._met = 0.0


def _ended(window: WindowMetrics) -> float:
    return window.completions + window.refusals + window.failed_requests
