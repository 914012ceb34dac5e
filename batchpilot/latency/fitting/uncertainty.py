"""How well a fit determines its parameters: covariance, confidence intervals, sensitivity."""

from __future__ import annotations

import math

import numpy as np
from numpy.typing import NDArray

from batchpilot.latency.fitting.residuals import FEASIBLE, LOGARITHMIC, NAMES, Floats, Problem, blocks, product

_FLAT = 1e-7
"""Of the steepest direction's slope: what is flatter than this the observations do not determine at all."""

_AT_BOUND = np.array([1e-3 if name in LOGARITHMIC else 1e-6 for name in NAMES])
"""Distance in the solver's coordinates within which a parameter counts as at its bound; it stops short of it."""

_ANYTHING = 1e12
"""Variance, in the solver's coordinates, of what could be anything."""

_LEAST_LEFT = 0.05
"""Least of a point's residual that counts as left by the fit: one that is alone in its place leaves none."""

_LARGEST_LOG = 600.0


def at_bounds(problem: Problem, p: Floats) -> tuple[NDArray[np.bool_], NDArray[np.bool_]]:
    """Which of the free parameters are at their lower and which at their upper bound.

    Args:
        problem: what was fitted.
        p: the solution, in field order.
    """
    u = problem.coordinates(p)
    low, high = problem.bounds()
    near = _AT_BOUND[problem.free]
    return u - low < near, high - u < near


def covariance(problem: Problem, p: Floats, outlier: float | None) -> Floats:
    """Covariance of the free parameters; NaN for those that stopped at a bound.

    Repeats of one step share the model's error there, so they count as one observation: the estimate is the
    cluster-robust sandwich (CR3) with a point (B, S, C) as cluster. It supposes neither equal variances nor the right
    model.

    Args:
        problem: what was fitted.
        p: the solution, in field order.
        outlier: scale of the robust loss; None where it was not robust.

    Returns:
        Covariance in the parameters' own units, shape (free, free).
    """
    u = problem.coordinates(p)
    inner = np.flatnonzero(~np.logical_or(*at_bounds(problem, p)))
    result = np.full((len(u), len(u)), np.nan)
    if not inner.size:
        return result
    n = len(problem.observations)
    off, slopes = problem.residual_vector(u)[:n], problem.jacobian(u)[:, inner]
    influence = np.ones(n) if outlier is None else 1.0 / np.sqrt(1.0 + (off / outlier) ** 2)
    bread, flat = _inverse(slopes, np.concatenate([np.sqrt(influence), np.ones(len(slopes) - n)]))
    drawn = off * influence
    scores = np.array([np.bincount(problem.points, of_one * drawn) for of_one in slopes[:n].T])
    # What a point would be off by, had it not been fitted: else a point that decides a parameter seems exact.
    moved = np.concatenate([np.sum((slopes[part] @ bread) * slopes[part], axis=1) for part in blocks(n)])[:n]
    scores /= np.maximum(1.0 - np.bincount(problem.points, influence * moved), _LEAST_LEFT)
    unit = problem.per_coordinate(p)[inner]
    spread = bread @ product(scores, scores) @ bread + flat
    result[np.ix_(inner, inner)] = spread * np.outer(unit, unit)
    return result


def intervals(problem: Problem, p: Floats, spread: Floats) -> dict[str, tuple[float, float]]:
    """95 % confidence interval of each free parameter; NaN for those at a bound.

    Symmetric in the logarithm where the parameter must be positive, else cut at the parameter's bounds.

    Args:
        problem: what was fitted.
        p: the solution, in field order.
        spread: covariance of the free parameters.
    """
    from scipy.stats import t

    variances = np.diag(spread)
    points = int(problem.points.max()) + 1
    quantile = float(t.ppf(0.975, max(points - int(np.isfinite(variances).sum()), 1)))
    found = {}
    for place, variance in zip(problem.free, variances, strict=True):
        name, value, error = NAMES[place], float(p[place]), quantile * math.sqrt(max(variance, 0.0))
        low, high = FEASIBLE[name]
        if math.isnan(error):
            found[name] = (math.nan, math.nan)
        elif name in LOGARITHMIC:
            factor = math.exp(min(error / value, _LARGEST_LOG))
            found[name] = (max(value / factor, low), min(value * factor, high))
        else:
            found[name] = (max(value - error, low), min(value + error, high))
    return found


def sensitivity(problem: Problem, p: Floats) -> dict[str, float]:
    """Mean over the observations of |dT/dtheta * theta / T| for each free parameter.

    Args:
        problem: what was fitted.
        p: the solution, in field order.
    """
    return {NAMES[place]: float(share) for place, share in zip(problem.free, problem.sensitivity(p), strict=True)}


def _inverse(slopes: Floats, roots: Floats) -> tuple[Floats, Floats]:
    """(J'WJ)^-1 over the directions that the observations determine, and an enormous variance in the others."""
    # The triangle of a QR decomposition has the singular values and directions of what it comes from.
    triangle: Floats = np.zeros((slopes.shape[1], slopes.shape[1]))
    for part in blocks(len(slopes)):
        triangle = np.asarray(np.linalg.qr(np.vstack([triangle, slopes[part] * roots[part, None]]), mode="r"))
    _, singular, directions = np.linalg.svd(triangle)
    steep = singular > _FLAT * max(singular[0], 1e-300)
    inverse: Floats = (directions[steep].T / singular[steep] ** 2) @ directions[steep]
    flat: Floats = _ANYTHING * directions[~steep].T @ directions[~steep]
    return inverse, flat
