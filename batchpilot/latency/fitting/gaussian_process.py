"""A learner without a form of its own: what does the saturation model's form add to the data? Times in ms.

A Gaussian process over log(1 + B), log(1 + S), log(1 + C), on the logarithm of time, around a linear trend. Source:
Rasmussen and Williams, Gaussian Processes for Machine Learning (2006), chapters 2 and 5.
"""

from __future__ import annotations

import math

import numpy as np

from batchpilot.latency.fitting.observations import Observations
from batchpilot.latency.fitting.regressor import LatencyRegressor, require
from batchpilot.latency.fitting.residuals import Floats

MOST_POINTS = 400
"""It costs the cube of the points; of more, so many are taken, evenly over the observations."""

_LENGTHS = (0.2, 0.4, 0.8, 1.6, 3.2)
_NOISES = (1e-4, 1e-3, 1e-2, 1e-1)


class GaussianProcessRegressor(LatencyRegressor):
    """Squared exponential kernel; its length and noise are those of the highest marginal likelihood on a grid."""

    name = "gaussian process"

    def __init__(self) -> None:
        self._points: Floats | None = None

    def fit(self, observations: Observations) -> GaussianProcessRegressor:
        """See `LatencyRegressor`."""
        require(observations)
        from scipy.linalg import cho_factor, cho_solve  # loads longer than most commands run

        taken = np.unique(np.linspace(0, len(observations) - 1, MOST_POINTS).round().astype(np.int64))
        raw = _features(observations)[taken]
        self._middle, self._spread = raw.mean(axis=0), np.maximum(raw.std(axis=0), 1e-9)
        points = (raw - self._middle) / self._spread
        target = np.log(observations.latency_ms[taken])
        self._trend = np.linalg.lstsq(_with_one(points), target, rcond=None)[0]
        left = target - _with_one(points) @ self._trend
        best = -math.inf
        for length in _LENGTHS:
            for noise in _NOISES:
                factor = cho_factor(_kernel(points, points, length) + noise * np.eye(len(points)), lower=True)
                weights = cho_solve(factor, left)
                scale = max(float(left @ weights) / len(points), 1e-12)
                likelihood = -len(points) * math.log(scale) - 2.0 * float(np.log(np.diag(factor[0])).sum())
                if likelihood > best:
                    best, self._length, self._weights = likelihood, length, weights
        self._points = points
        return self

    def predict(self, observations: Observations) -> Floats:
        """See `LatencyRegressor`; far from everything that was seen the trend alone speaks."""
        if self._points is None:
            raise ValueError(f"{self.name} has not been fitted")
        points = (_features(observations) - self._middle) / self._spread
        logarithm = _with_one(points) @ self._trend + _kernel(points, self._points, self._length) @ self._weights
        return np.asarray(np.exp(logarithm))


def _features(observations: Observations) -> Floats:
    parts = (observations.batch_size, observations.tokens, observations.context_tokens)
    return np.log1p(np.stack(parts, axis=1).astype(np.float64))


def _with_one(points: Floats) -> Floats:
    return np.concatenate((np.ones((len(points), 1)), points), axis=1)


def _kernel(one: Floats, other: Floats, length: float) -> Floats:
    squares = ((one[:, None, :] - other[None, :, :]) ** 2).sum(axis=2)
    return np.asarray(np.exp(-0.5 * squares / length**2))
