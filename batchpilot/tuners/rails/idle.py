"""Idle: where there was nothing to do, nothing was learned, and the limits stay."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from batchpilot.core import Limits, WindowMetrics


class Idle:
    """Holds the limits in force while there is nothing to do.

    Policies are trained on servers that have something to do. Left to themselves in an empty one they drift, and the
    next request meets limits that no load ever asked for.

    Args:
        start: the limits held before the first window.
    """

    name = "idle"
    replaces = True

    def __init__(self, start: Limits) -> None:
        self._start = start
        self.reset()

    def hear(self, window: WindowMetrics) -> None:
        """Note whether there was work.

        Args:
            window: the window.
        """
        self._is_idle = window.steps == window.arrivals == window.queue == window.running == 0
        self._held = window.limits

    def allow(self, proposed: Limits) -> Limits:
        """The proposed limits, or those held while there is nothing to do.

        Args:
            proposed: what the policy asks for.
        """
        return self._held if self._is_idle and proposed != self._held else proposed

    def reset(self) -> None:
        """Forget every window."""
        self._is_idle = False
        self._held = self._start
        self.reason = "there was nothing to do: limits stay"

    def state_dict(self) -> dict[str, Any]:
        """The limits held as plain data."""
        return {"is_idle": self._is_idle, "held": self._held.to_dict()}

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        """Go on from a saved state.

        Args:
            state: what `state_dict` returned.

        Raises:
            KeyError: a field is missing.
        """
        self._held, self._is_idle = Limits.from_dict(state["held"]), bool(state["is_idle"])
