"""Bounds: limits never leave the range that the operator allows."""

from __future__ import annotations

import math
from collections.abc import Mapping
from typing import Any

from batchpilot.core import Limits, WindowMetrics

NUMBERS = (
    *("batch_size", "token_budget", "max_queued_tokens", "max_wait_ms", "step_target_ms", "ttft_guard"),
    *("max_padding_tokens", "max_padding_share", "speculative_tokens", "refusal_bound"),
)


class Bounds:
    """Holds every limit between a lowest and a highest value.

    Off counts as infinite: a highest value switches a limit on, a lowest value never does. Of `speculative_tokens`, off
    is 0, and it is the other way round.

    Args:
        lowest: lowest value of each field; a field that is off there has none.
        highest: highest value of each field, likewise.

    Raises:
        ValueError: a lowest value is above the highest; the message names the field.
    """

    name = "bounds"
    replaces = False

    def __init__(self, lowest: Limits | None = None, highest: Limits | None = None) -> None:
        self._bounds = {name: (_bound(lowest, name, 0.0), _bound(highest, name, math.inf)) for name in NUMBERS}
        for name, (low, high) in self._bounds.items():
            if low > high:
                raise ValueError(
                    f"the lowest {name} {low:g} is above the highest {high:g}; lower one or raise the other"
                )
        self.reason = ""

    def hear(self, window: WindowMetrics) -> None:
        """Bounds learn nothing.

        Args:
            window: unused.
        """

    def allow(self, proposed: Limits) -> Limits:
        """The proposed limits, moved to the nearest bound where they are beyond one.

        Args:
            proposed: what the tuner asks for.
        """
        changes: dict[str, float] = {}
        for name, (low, high) in self._bounds.items():
            value = getattr(proposed, name)
            number = math.inf if value is None else value
            if not low <= number <= high:
                changes[name] = low if number < low else high
        if not changes:
            return proposed
        self.reason = "held at the operator's " + ", ".join(f"{name}={value:g}" for name, value in changes.items())
        return proposed.replace(**changes)

    def reset(self) -> None:
        """Bounds stay."""

    def state_dict(self) -> dict[str, Any]:
        """Why it last overruled."""
        return {"reason": self.reason}

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        """Go on from a saved state.

        Args:
            state: what `state_dict` returned.

        Raises:
            KeyError: a field is missing.
        """
        self.reason = str(state["reason"])


def _bound(limits: Limits | None, name: str, off: float) -> float:
    value: float = off if limits is None else limits.in_force().get(name, off)
    return value
