"""The compiled inner loops of adaptation: errors of a stretch of observations, and the normal equations of a refit.

`p` holds the parameters in field order; `rows` the columns B, S, C and T in ms.
"""

from __future__ import annotations

import math

import numpy as np
from numpy.typing import NDArray

from batchpilot.latency.model.compiled import kernel
from batchpilot.latency.model.saturation import N_PARAMETERS, step_gradient, step_ms

Array = NDArray[np.float64]


@kernel
def log_errors(p: Array, rows: Array, errors: Array) -> None:
    """Fill `errors`, shape (n,), with log(predicted / measured) of each row."""
    for i in range(len(rows)):
        errors[i] = math.log(step_ms(p, rows[i, 0], rows[i, 1], rows[i, 2]) / rows[i, 3])


@kernel
def normal_equations(
    p: Array, rows: Array, weights: Array, outlier: float, slope: Array, gradient: Array, hessian: Array
) -> float:
    """Weighted mean of Huber's loss of log(predicted / measured), its gradient (11,) and Gauss-Newton Hessian (11, 11).

    `weights`, shape (n,), sum to 1; an error beyond `outlier` counts linearly. `slope`, shape (11,), is working memory.
    """
    gradient[:] = 0.0
    hessian[:] = 0.0
    loss = 0.0
    for i in range(len(rows)):
        B, S, C = rows[i, 0], rows[i, 1], rows[i, 2]
        predicted = step_ms(p, B, S, C)
        step_gradient(p, B, S, C, slope)
        error = math.log(predicted / rows[i, 3])
        size = abs(error)
        trust = weights[i]
        if size > outlier:
            loss += trust * outlier * (size - 0.5 * outlier)
            trust *= outlier / size
        else:
            loss += trust * 0.5 * error * error
        for j in range(N_PARAMETERS):
            share = trust * slope[j] / predicted
            gradient[j] += error * share
            for k in range(j + 1):
                hessian[j, k] += share * slope[k] / predicted
    for j in range(N_PARAMETERS):
        for k in range(j):
            hessian[k, j] = hessian[j, k]
    return loss
