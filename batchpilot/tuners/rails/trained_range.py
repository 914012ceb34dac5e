"""Trained range: where inputs leave what the policy saw in training, the last good limits stay."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np

from batchpilot.core import Limits, WindowMetrics
from batchpilot.core.features import FEATURE_HIGH, FEATURE_LOW, FEATURE_NAMES
from batchpilot.tuners.policy.observation import Observation

MARGIN = 0.05
"""How far beyond its trained range a feature may be, as a share of all the values it can take."""


class TrainedRange:
    """Holds the limits of the last window whose features the policy knew.

    Args:
        low: lowest value of each feature seen in training, F values; empty when not recorded, then nothing is held.
        high: highest value, likewise.
        observation: what the policy looks at.
        start: the limits held while no window was known yet.
    """

    name = "trained_range"
    replaces = True

    def __init__(self, low: Sequence[float], high: Sequence[float], observation: Observation, start: Limits) -> None:
        lowest, highest = FEATURE_LOW[: len(observation.latest)], FEATURE_HIGH[: len(observation.latest)]
        margin = MARGIN * (highest - lowest)
        self._is_recorded = bool(low and high)
        self._low = np.array(low, np.float32) - margin if low else lowest
        self._high = np.array(high, np.float32) + margin if high else highest
        self._observation = observation
        self._start = start
        self.reset()

    def hear(self, window: WindowMetrics) -> None:
        """Compare the window's features with the range.

        Args:
            window: the window, which the observation holds already.
        """
        latest = self._observation.latest
        self._is_known = not self._is_recorded or not ((latest < self._low) | (latest > self._high)).any()
        if self._is_known:
            self._good = window.limits
        else:
            self.reason = self._describe(latest)

    def allow(self, proposed: Limits) -> Limits:
        """The proposed limits, or the last good ones while inputs are unknown.

        Args:
            proposed: what the policy asks for.
        """
        return proposed if self._is_known or proposed == self._good else self._good

    def reset(self) -> None:
        """Forget every window."""
        self._is_known = True
        self._good = self._start
        self.reason = ""

    def state_dict(self) -> dict[str, Any]:
        """The last good limits as plain data."""
        return {"is_known": self._is_known, "good": self._good.to_dict(), "reason": self.reason}

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        """Go on from a saved state.

        Args:
            state: what `state_dict` returned.

        Raises:
            KeyError: a field is missing.
        """
        self._good, self._is_known = Limits.from_dict(state["good"]), bool(state["is_known"])
        self.reason = str(state["reason"])

    def _describe(self, latest: np.ndarray) -> str:
        outside = np.flatnonzero((latest < self._low) | (latest > self._high))
        first = int(outside[0])
        return (
            f"last good limits: {len(outside)} features are outside the trained range, the first of them "
            f"{FEATURE_NAMES[first]} at {latest[first]:.2f}"
        )
