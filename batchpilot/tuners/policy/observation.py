"""What a policy sees: the features of its last windows, oldest first."""

from __future__ import annotations

import numpy as np

from batchpilot.core.features import FEATURE_NAMES, window_features
from batchpilot.core.metrics import WindowMetrics
from batchpilot.tuners.policy.network import Floats


class Observation:
    """The features of the last windows, shared by the policy and the rail that knows the trained range.

    Windows that were not heard yet are zeros, as they are in training.

    Args:
        stack: windows seen at once, k.
        features: how many of them are looked at, the first F.

    Attributes:
        values: features of k windows, oldest first, shape (k * F,).
    """

    def __init__(self, stack: int, features: int = len(FEATURE_NAMES)) -> None:
        self.values: Floats = np.zeros(stack * features, np.float32)
        self._features = features

    @property
    def latest(self) -> Floats:
        """The features of the last window, shape (F,)."""
        return self.values[-self._features :]

    def add(self, window: WindowMetrics) -> None:
        """See one more window.

        Args:
            window: the window.
        """
        width = self._features
        if len(self.values) > width:
            self.values[:-width] = self.values[width:]
        self.values[-width:] = window_features(window)[:width]

    def clear(self) -> None:
        """Forget every window."""
        self.values[:] = 0.0

    def load(self, values: Floats) -> None:
        """See what was seen elsewhere.

        Args:
            values: shape (k * F,).

        Raises:
            ValueError: another shape, or a number that is not finite.
        """
        if values.shape != self.values.shape or not np.isfinite(values).all():
            raise ValueError(f"an observation has {len(self.values)} finite numbers; given: shape {values.shape}")
        self.values[:] = values
