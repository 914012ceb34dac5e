"""How good a model of step latency is: its errors, forward in time, and beyond what it was fitted on."""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import asdict, dataclass
from itertools import pairwise

import numpy as np
from numpy.typing import NDArray

from batchpilot.latency.fitting.observations import Observations
from batchpilot.latency.fitting.regressor import LatencyRegressor
from batchpilot.latency.fitting.residuals import Floats

TRAINED_BATCH_SIZE = 32
TRAINED_TOKENS = 1024
"""Largest B and S that the document's extrapolation test trains on."""

_SHAPIRO_MOST = 5000
"""Observations beyond which the p-value of the Shapiro-Wilk test is not accurate."""


@dataclass(frozen=True, slots=True)
class Judgement:
    """Errors of predicted against measured latencies.

    Attributes:
        observations: how many.
        r2: 1 - residual over total sum of squares; NaN where all measured are equal.
        rmse_ms: root of the mean squared error.
        mae_ms: mean absolute error.
        mape: mean relative error, of the measured; 0.05 is 5 %.
        p95_error: 95th percentile of the relative error.
        shapiro_p: p-value of the Shapiro-Wilk test on the residuals: below 0.05 they are not normal; NaN where they are
            fewer than 3 or all equal.
    """

    observations: int
    r2: float
    rmse_ms: float
    mae_ms: float
    mape: float
    p95_error: float
    shapiro_p: float

    def to_dict(self) -> dict[str, float]:
        """The figures by name, NaN among them."""
        return asdict(self)


@dataclass(frozen=True, slots=True)
class Comparison:
    """One model's judgements on one set of observations.

    Attributes:
        name: of the model.
        fitted: on what it was fitted on: everything.
        forward: forward in time: each part predicted from what came before it; None where there is too little.
        inside: fitted on and tested at B <= 32, S <= 1024; None where nothing is there.
        beyond: fitted there and tested on the rest; None where nothing is there.
    """

    name: str
    fitted: Judgement
    forward: Judgement | None
    inside: Judgement | None
    beyond: Judgement | None


def judge(predicted_ms: Floats, measured_ms: Floats) -> Judgement:
    """The errors of a prediction.

    Args:
        predicted_ms: shape (n,), n >= 1.
        measured_ms: shape (n,), above 0.

    Raises:
        ValueError: the shapes differ, nothing is there, or a measured latency is not above 0.
    """
    if predicted_ms.shape != measured_ms.shape or predicted_ms.ndim != 1 or not predicted_ms.size:
        raise ValueError(
            f"predicted has shape {predicted_ms.shape} and measured {measured_ms.shape}; expected (n,), n >= 1"
        )
    if not np.all(measured_ms > 0):
        raise ValueError("a measured latency is not above 0")
    off = predicted_ms - measured_ms
    relative = np.abs(off) / measured_ms
    total = float(np.sum((measured_ms - measured_ms.mean()) ** 2))
    return Judgement(
        observations=len(off),
        r2=1.0 - float(np.sum(off**2)) / total if total > 0 else math.nan,
        rmse_ms=float(np.sqrt(np.mean(off**2))),
        mae_ms=float(np.mean(np.abs(off))),
        mape=float(np.mean(relative)),
        p95_error=float(np.percentile(relative, 95)),
        shapiro_p=_shapiro_p(off),
    )


def forward_chaining(
    make: Callable[[], LatencyRegressor], observations: Observations, folds: int = 5
) -> Judgement | None:
    """Cross-validation forward in time: each of the later parts is predicted by a model of all that came before it.

    Args:
        make: a fresh regressor.
        observations: in the order in which they were measured.
        folds: parts that are predicted, >= 1; there is one more, only learned from.

    Returns:
        The judgement of all predictions together; None with fewer than two observations for each part.

    Raises:
        ValueError: fewer than one fold.
    """
    if folds < 1:
        raise ValueError(f"folds is {folds}; it must be >= 1")
    if len(observations) < 2 * (folds + 1):
        return None
    ends = np.linspace(0, len(observations), folds + 2).astype(int)[1:]
    parts = [make().fit(observations[:start]).predict(observations[start:end]) for start, end in pairwise(ends)]
    return judge(np.concatenate(parts), observations.latency_ms[ends[0] :])


def trained_range(
    observations: Observations, batch_size: float = TRAINED_BATCH_SIZE, tokens: float = TRAINED_TOKENS
) -> NDArray[np.bool_]:
    """Which observations the extrapolation test trains on, shape (n,); it tests on the others.

    Args:
        observations: any.
        batch_size: largest B to train on.
        tokens: largest S to train on.

    Source: throughput saturation document, extrapolation.
    """
    return np.asarray((observations.batch_size <= batch_size) & (observations.tokens <= tokens))


def compare(make: Callable[[], LatencyRegressor], observations: Observations, folds: int = 5) -> Comparison:
    """Judge one model in every way.

    Args:
        make: a fresh regressor, for each fit anew.
        observations: usable ones, in the order in which they were measured, at least one.
        folds: of the cross-validation forward in time.

    Raises:
        ValueError: no observations, or unusable ones.
    """
    model = make().fit(observations)
    near = trained_range(observations)
    inside, beyond = observations[near], observations[~near]
    trained = make().fit(inside) if len(inside) else None

    def judged(part: Observations) -> Judgement | None:
        return judge(trained.predict(part), part.latency_ms) if trained and len(part) else None

    return Comparison(
        name=model.name,
        fitted=judge(model.predict(observations), observations.latency_ms),
        forward=forward_chaining(make, observations, folds),
        inside=judged(inside),
        beyond=judged(beyond),
    )


def _shapiro_p(off: Floats) -> float:
    from scipy.stats import shapiro

    if len(off) > _SHAPIRO_MOST:
        off = off[np.linspace(0, len(off) - 1, _SHAPIRO_MOST).astype(int)]
    return float(shapiro(off).pvalue) if len(off) >= 3 and np.ptp(off) > 1e-12 * np.abs(off).max() else math.nan
