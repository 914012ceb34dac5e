"""Limits that never move: what servers ship, and the fixed sizes that every tuner is compared with."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from batchpilot.core import Limits, Tuner, WindowMetrics

SERVER_DEFAULT = Limits(batch_size=256, token_budget=2048)
"""What servers ship: 256 requests, 2048 tokens, an unbounded queue (vLLM 0.33 and its kind)."""


class StaticTuner(Tuner):
    """Asks for the same limits for ever.

    Args:
        limits: the limits.
        name: what tables call it.
    """

    quick = True

    def __init__(self, limits: Limits, name: str = "static") -> None:
        self.name = name
        self._limits = limits
        self._windows_heard = 0

    def ask(self) -> Limits:
        """The limits."""
        return self._limits

    def tell(self, metrics: WindowMetrics) -> None:
        """Count a window; nothing changes.

        Args:
            metrics: any window.
        """
        self._windows_heard += 1

    def reset(self, seed: int | None = None) -> None:
        """Forget the count.

        Args:
            seed: unused.
        """
        self._windows_heard = 0

    def status(self) -> dict[str, Any]:
        """The limits and the count."""
        return {
            "phase": "STATIC",
            "current_batch_size": self._limits.batch_size,
            "is_stabilized": True,
            "reason": f"static: {self._limits}",
            "windows_heard": self._windows_heard,
        }

    def state_dict(self) -> dict[str, Any]:
        """Limits and count as plain data."""
        return {"tuner": "static", "limits": self._limits.to_dict(), "windows_heard": self._windows_heard}

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        """Go on from a saved state.

        Args:
            state: what `state_dict` returned.

        Raises:
            ValueError: the state is another tuner's, or a field is missing; nothing is changed then.
        """
        if state.get("tuner") != "static":
            raise ValueError(f"this is the state of {state.get('tuner')!r}, not of a static tuner")
        try:
            limits, heard = Limits.from_dict(state["limits"]), int(state["windows_heard"])
        except (KeyError, TypeError) as error:
            raise ValueError(f"the state of the static tuner is incomplete: {error!r}") from error
        self._limits, self._windows_heard = limits, heard
