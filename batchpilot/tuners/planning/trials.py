"""A trial of one change against what is in force, in turns, until it is sure who serves more."""

from __future__ import annotations

import math
from collections.abc import Mapping
from typing import Any

import numpy as np

FEWEST_PAIRS, MOST_PAIRS = 4, 10
SURE = 2.0
"""Standard errors that the mean gain must be above zero, or below."""

SMALLEST_GAIN = 0.005
"""A mean gain below this is not worth a change."""

GIVEN_UP_AT = -0.05
"""A mean gain below this ends a trial after its first pair."""


class Trial:
    """Turns of the limits in force and of their challenger, two for each, as A B B A, so that a trend favours nobody.

    Args:
        arm: the field that is changed, and by which factor.
    """

    def __init__(self, arm: tuple[str, float]) -> None:
        self.arm = arm
        self._heard: list[float] = []

    @property
    def is_challengers_turn(self) -> bool:
        """Whose turn it is: A B B A A B B A ..."""
        return len(self._heard) % 4 in (1, 2)

    @property
    def gains(self) -> list[float]:
        """What the challenger served beyond the other, as a share, in every whole pair of turns."""
        pairs = zip(self._heard[::2], self._heard[1::2], strict=False)
        found = []
        for number, (first, second) in enumerate(pairs):
            theirs, ours = (first, second) if number % 2 == 0 else (second, first)
            found.append((ours - theirs) / max(0.5 * (ours + theirs), 1e-9))
        return found

    @property
    def verdict(self) -> bool | None:
        """Whether the challenger wins; None while that is open."""
        gains = self.gains
        if len(self._heard) % 2 or not gains:
            return None
        mean = float(np.mean(gains))
        if mean < GIVEN_UP_AT:
            return False
        if len(gains) < FEWEST_PAIRS:
            return None
        doubt = SURE * float(np.std(gains, ddof=1)) / math.sqrt(len(gains))
        if mean - doubt > 0.0 and mean > SMALLEST_GAIN:
            return True
        if mean + doubt < SMALLEST_GAIN or len(gains) >= MOST_PAIRS:
            return False
        return None

    @property
    def gain(self) -> float:
        """The mean gain, as a share."""
        return float(np.mean(self.gains))

    @property
    def summary(self) -> str:
        """The mean gain, in words."""
        return f"{self.gain:+.1%} in {len(self.gains)} pairs of turns"

    def hear(self, worth: float) -> None:
        """What the side whose turn it was served for each arrival.

        Args:
            worth: output tokens within SLO, >= 0.
        """
        self._heard.append(worth)

    def state_dict(self) -> dict[str, Any]:
        """The trial as plain data."""
        return {"arm": list(self.arm), "heard": list(self._heard)}

    @classmethod
    def from_state(cls, state: Mapping[str, Any]) -> Trial:
        """A trial from its state.

        Args:
            state: what `state_dict` returned.

        Raises:
            KeyError: a field is missing.
            ValueError: a field is wrong.
        """
        field, factor = state["arm"]
        trial = cls((str(field), float(factor)))
        trial._heard = [float(worth) for worth in state["heard"]]
        return trial
