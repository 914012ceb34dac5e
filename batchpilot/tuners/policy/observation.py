"""What a policy sees: the features of its last windows, oldest first."""

from __future__ import annotations

import numpy as np

from batchpilot.core.features import FEATURE_NAMES, window_features
from batchpilot.core.metrics import WindowMetrics
from batchpilot.tuners.policy.network import Floats


class Observation:
    """The features of the last windows, shared by the policy and the rail that knows the trained range.

    Windows that were not heard yet stand in with the mean of the training, which is normalised to zero.

    Args:
        mean: of the training, shape (k * F,).

    Attributes:
        values: features of k windows, oldest first, shape (k * F,).
        windows: windows seen, at most k.
    """

    def __init__(self, mean: Floats) -> None:
        self._mean = mean
        self._width = len(FEATURE_NAMES)
        self._stack = len(mean) // self._width
        self.values = mean.copy()
        self.windows = 0

    @property
    def latest(self) -> Floats:
        """The features of the last window, shape (F,)."""
        return self.values[-self._width :]

    def add(self, window: WindowMetrics) -> None:
        """See one more window.

        Args:
            window: the window.
        """
        if self._stack > 1:
            oldest = self._width * max(1, self._stack - self.windows)
            self.values[oldest - self._width : -self._width] = self.values[oldest:]
        self.windows = min(self.windows + 1, self._stack)
        self.values[-self._width :] = window_features(window)

    def clear(self) -> None:
        """Forget every window."""
        self.values[:] = self._mean
        self.windows = 0

    def load(self, values: Floats, windows: int) -> None:
        """See what was seen elsewhere.

        Args:
            values: shape (k * F,).
            windows: windows that they hold, at most k.

        Raises:
            ValueError: another shape, a number that is not finite, or more windows.
        """
        if values.shape != self._mean.shape or not np.isfinite(values).all():
            raise ValueError(f"an observation has {len(self._mean)} finite numbers; given: shape {values.shape}")
        if not 0 <= windows <= self._stack:
            raise ValueError(f"an observation holds up to {self._stack} windows; given: {windows}")
        self.values[:] = values
        self.windows = windows
