"""What a safety rail is: it hears every window, and may put other limits in place of those proposed."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, Protocol

from batchpilot.core import Limits, WindowMetrics


class Rail(Protocol):
    """One safety rule around a tuner.

    Attributes:
        name: what `status()` calls it.
        reason: why it last overruled.
        replaces: whether the tuner goes on from the limits put in place; else they only cap, and its wish stands.
    """

    name: str
    reason: str
    replaces: bool

    def hear(self, window: WindowMetrics) -> None:
        """Learn from a window; odd ones are never given to a rail.

        Args:
            window: the window, under whatever limits it was measured.
        """

    def allow(self, proposed: Limits) -> Limits:
        """The proposed limits, or others where the rule calls for it.

        Args:
            proposed: what the tuner asks for, as the rails before this one left it.

        Returns:
            The same object when the rule has nothing against it.
        """

    def reset(self) -> None:
        """Forget every window."""

    def state_dict(self) -> dict[str, Any]:
        """What it learned, as plain data that JSON can hold."""

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        """Go on from a saved state.

        Args:
            state: what `state_dict` returned.

        Raises:
            KeyError: a field is missing.
        """
