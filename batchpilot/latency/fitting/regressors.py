"""Models of step latency by name, so that each can be held against the others. Times in ms."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import numpy as np
from numpy.typing import NDArray

from batchpilot.core.names import lookup
from batchpilot.latency.fitting.bottleneck import BottleneckRegressor
from batchpilot.latency.fitting.gaussian_process import GaussianProcessRegressor
from batchpilot.latency.fitting.observations import Observations
from batchpilot.latency.fitting.regressor import LatencyRegressor, require
from batchpilot.latency.fitting.residuals import Floats
from batchpilot.latency.fitting.saturation_fit import Fit, fit
from batchpilot.latency.model.saturation import SaturationParameters

LINEAR_LOSSES: dict[str, str] = {"absolute": "every ms counts the same", "relative": "every percent counts the same"}


class PolynomialRegressor(LatencyRegressor):
    """A polynomial in B and S, by ordinary or relative least squares.

    Args:
        degree: 1 for a + b1*B + b2*S; 2 adds b3*B^2 + b4*S^2, without B*S.
        context: also terms of C, which the documents' baselines lack.
        loss: one of `LINEAR_LOSSES`; the documents' baselines are absolute.

    Raises:
        ValueError: an unknown degree or loss.

    Source: throughput saturation document, baselines.
    """

    def __init__(self, degree: int = 1, *, context: bool = False, loss: str = "absolute") -> None:
        if degree not in (1, 2):
            raise ValueError(f"degree is {degree}; it must be 1 or 2")
        lookup(LINEAR_LOSSES, loss, "loss")
        self.degree, self.context, self.loss = degree, context, loss
        variant = ("+C" if context else "") + (f" ({loss})" if loss != "absolute" else "")
        self.name = ("linear" if degree == 1 else "polynomial") + variant
        self._coefficients: Floats | None = None

    def fit(self, observations: Observations) -> PolynomialRegressor:
        """See `LatencyRegressor`."""
        require(observations)
        weights = 1.0 / observations.latency_ms if self.loss == "relative" else np.ones(len(observations))
        rows = self._terms(observations) * weights[:, None]
        scales = np.maximum(np.abs(rows).max(axis=0), 1e-300)
        target = observations.latency_ms * weights
        self._coefficients = np.linalg.lstsq(rows / scales, target, rcond=None)[0] / scales
        return self

    def predict(self, observations: Observations) -> Floats:
        """See `LatencyRegressor`; nothing keeps a polynomial from predicting a time below 0."""
        if self._coefficients is None:
            raise ValueError(f"{self.name} has not been fitted")
        return np.asarray(self._terms(observations) @ self._coefficients)

    def _terms(self, observations: Observations) -> Floats:
        B, S, C = observations.batch_size, observations.tokens, observations.context_tokens
        terms: list[NDArray[np.float64]] = [np.ones_like(B), B, S]
        if self.degree == 2:
            terms += [B**2, S**2]
        if self.context:
            terms += [C, C**2] if self.degree == 2 else [C]
        return np.stack(terms, axis=1)


class SaturationRegressor(LatencyRegressor):
    """The saturation model, fitted.

    Args:
        name: what tables call it.
        **options: of `fitting.fit`.

    Attributes:
        result: what the last fit found; None before.
    """

    def __init__(self, name: str = "saturation", **options: Any) -> None:
        self.name = name
        self.result: Fit | None = None
        self._options = options

    def fit(self, observations: Observations) -> SaturationRegressor:
        """See `LatencyRegressor`."""
        self.result = fit(observations, **self._options)
        return self

    def predict(self, observations: Observations) -> Floats:
        """See `LatencyRegressor`."""
        if self.result is None:
            raise ValueError(f"{self.name} has not been fitted")
        return _predicted(self.result.parameters, observations)


class GivenRegressor(LatencyRegressor):
    """Parameters that do not come from the observations, such as a roofline's; `fit` leaves them as they are.

    Args:
        name: what tables call it.
        parameters: of the saturation model.
    """

    def __init__(self, name: str, parameters: SaturationParameters) -> None:
        self.name = name
        self.parameters = parameters

    def fit(self, observations: Observations) -> GivenRegressor:
        """See `LatencyRegressor`."""
        require(observations)
        return self

    def predict(self, observations: Observations) -> Floats:
        """See `LatencyRegressor`."""
        return _predicted(self.parameters, observations)


REGRESSORS: dict[str, tuple[type[LatencyRegressor], Mapping[str, Any]]] = {
    "linear": (PolynomialRegressor, {"degree": 1}),
    "polynomial": (PolynomialRegressor, {"degree": 2}),
    "bottleneck": (BottleneckRegressor, {}),
    "gaussian process": (GaussianProcessRegressor, {}),
    "saturation": (SaturationRegressor, {}),
}
"""Regressors that learn everything from observations, by name: class and arguments."""


def make_regressor(name: str, /, **options: Any) -> LatencyRegressor:
    """A regressor by name.

    Args:
        name: one of `REGRESSORS`.
        **options: arguments of its class beside those that the name stands for.

    Raises:
        ValueError: no such name (the closest known ones are named), or an option is outside its bound.
    """
    kind, arguments = lookup(REGRESSORS, name, "latency regressor")
    return kind(**{**arguments, **options})


def _predicted(parameters: SaturationParameters, observations: Observations) -> Floats:
    return parameters.predict(observations.batch_size, observations.tokens, observations.context_tokens)
