"""A step waits for memory or for arithmetic, whichever takes longer. Times in ms.

    T = tau_0 + tau_b B + max(read + tau_c C, tau_s S)

Source: throughput saturation document, future work (a switch between memory and compute); the form is a roofline's.
"""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

from batchpilot.latency.fitting.observations import Observations
from batchpilot.latency.fitting.regressor import LatencyRegressor, require
from batchpilot.latency.fitting.residuals import Floats

_STARTS = (0.1, 0.25, 0.5, 0.75, 0.9)
"""Quantiles of S from which on steps count as bound by arithmetic at first."""

_ROUNDS = 30


class BottleneckRegressor(LatencyRegressor):
    """The switch, fitted by relative least squares, nothing below 0.

    Given which steps memory bounds, the rest is linear; so it is fitted, the steps are told apart anew by it, and again
    until none changes, from several starts.
    """

    name = "bottleneck"

    def __init__(self) -> None:
        self._values: Floats | None = None

    def fit(self, observations: Observations) -> BottleneckRegressor:
        """See `LatencyRegressor`."""
        require(observations)
        best = np.inf
        for start in _STARTS:
            by_memory = observations.tokens < np.quantile(observations.tokens, start)
            for _ in range(_ROUNDS):
                values = _fitted(observations, by_memory)
                error = float(np.sum((_predicted(values, observations) / observations.latency_ms - 1.0) ** 2))
                if error < best:
                    best, self._values = error, values
                before, by_memory = by_memory, _memory_ms(values, observations) >= values[4] * observations.tokens
                if np.array_equal(before, by_memory):
                    break
        return self

    def predict(self, observations: Observations) -> Floats:
        """See `LatencyRegressor`."""
        if self._values is None:
            raise ValueError(f"{self.name} has not been fitted")
        return _predicted(self._values, observations)

    def bound_by_memory(self, observations: Observations) -> NDArray[np.bool_]:
        """Which steps wait for memory, shape (n,).

        Args:
            observations: the steps; their latency is not looked at.

        Raises:
            ValueError: it has not been fitted.
        """
        if self._values is None:
            raise ValueError(f"{self.name} has not been fitted")
        return np.asarray(_memory_ms(self._values, observations) >= self._values[4] * observations.tokens)


def _fitted(observations: Observations, by_memory: NDArray[np.bool_]) -> Floats:
    """tau_0, tau_b, read, tau_c and tau_s, given which steps memory bounds."""
    from scipy.optimize import nnls  # loads longer than most commands run

    B, S, C = observations.batch_size, observations.tokens, observations.context_tokens
    rows = np.stack((np.ones_like(B), B, 1.0 * by_memory, C * by_memory, S * ~by_memory), axis=1)
    rows /= observations.latency_ms[:, None]
    scales = np.maximum(rows.max(axis=0), 1e-300)
    return np.asarray(nnls(rows / scales, np.ones(len(rows)))[0] / scales)


def _memory_ms(values: Floats, observations: Observations) -> Floats:
    return np.asarray(values[2] + values[3] * observations.context_tokens)


def _predicted(values: Floats, observations: Observations) -> Floats:
    work = np.maximum(_memory_ms(values, observations), values[4] * observations.tokens)
    return np.asarray(values[0] + values[1] * observations.batch_size + work)
