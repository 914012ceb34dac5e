"""Levenberg-Marquardt within the feasible set, on normal equations of the coordinates: a refit takes milliseconds."""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

from batchpilot.latency.online.relative_loss import RelativeLoss

Array = NDArray[np.float64]

_MOST_ITERATIONS = 40
_GOOD_ENOUGH, _NO_STEP = 1e-6, 1e-7
_DAMPING, _LEAST_DAMPING, _MOST_DAMPING = 1e-3, 1e-9, 1e9


def minimise(loss: RelativeLoss, start: Array) -> Array:
    """Coordinates of a local minimum of the loss within the feasible set.

    Args:
        loss: what to lower.
        start: feasible coordinates, shape (11,).

    Returns:
        Coordinates whose loss is not above that of the start, shape (11,).

    Raises:
        ArithmeticError: the loss is not finite at the start.

    Source: Marquardt (1963), with the step projected onto the bounds and coordinates held while they press on one.
    """
    lowest, highest = loss.coordinates.bounds
    x = np.clip(start, lowest, highest)
    value, gradient, hessian = loss.at(x)
    if not np.isfinite(value):
        raise ArithmeticError(f"the loss is {value} at the parameters that a refit starts from")
    damping = _DAMPING
    for _ in range(_MOST_ITERATIONS):
        held = ((x <= lowest) & (gradient > 0)) | ((x >= highest) & (gradient < 0))
        step = _damped_step(gradient, hessian, ~held, damping)
        if np.max(np.abs(step)) < _NO_STEP:
            break
        candidate = np.clip(x + step, lowest, highest)
        lower, *slopes = loss.at(candidate)
        if lower < value:
            done = value - lower < _GOOD_ENOUGH * value
            x, value, (gradient, hessian) = candidate, lower, slopes
            damping = max(damping / 5.0, _LEAST_DAMPING)
            if done:
                break
        else:
            damping *= 5.0
            if damping > _MOST_DAMPING:
                break
    return x


def _damped_step(gradient: Array, hessian: Array, free: NDArray[np.bool_], damping: float) -> Array:
    """The step to the minimum of the damped quadratic over the free coordinates; 0 in the others."""
    chosen = np.flatnonzero(free)
    step = np.zeros_like(gradient)
    if len(chosen):
        block = hessian[np.ix_(chosen, chosen)]
        block = block + damping * np.diag(np.diag(block) + _LEAST_DAMPING)
        step[chosen] = np.linalg.solve(block, -gradient[chosen])
    return step
