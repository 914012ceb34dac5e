"""The compiled inner loops of adaptation: errors of a stretch of observations, and the normal equations of a refit.

All of them share one file because Numba's cache of a kernel does not notice changes in a neighbour of this package.
`p` holds the parameters in field order; `rows` the columns B, S, C and T in ms.
"""

from __future__ import annotations

import math

import numpy as np
from numpy.typing import NDArray

from batchpilot.latency.compiled import kernel
from batchpilot.latency.saturation import step_ms

Array = NDArray[np.float64]


@kernel
def log_errors(p: Array, rows: Array, errors: Array) -> None:
    """Fill `errors`, shape (n,), with log(predicted / measured) of each row."""
    for i in range(len(rows)):
        errors[i] = math.log(step_ms(p, rows[i, 0], rows[i, 1], rows[i, 2]) / rows[i, 3])


@kernel
def sensitivity(p: Array, B: float, S: float, C: float, slope: Array) -> float:
    """T(B, S, C), and in `slope`, shape (8,), its derivatives.

    They are with respect to log p_max, log k_b, log k_s, w_0, tau_0, tau_b, tau_s and tau_c; w_1 stays as it is, since
    p_max, w_0 and w_1 count only as ratios.
    """
    full_b, full_s = -math.expm1(-p[1] * B), -math.expm1(-p[2] * S)
    throughput = p[0] * full_b * full_s
    work = (p[3] + p[4] * S) / throughput
    slope[0] = -work
    slope[1] = -work * p[1] * B * math.exp(-p[1] * B) / full_b
    slope[2] = -work * p[2] * S * math.exp(-p[2] * S) / full_s
    slope[3] = 1.0 / throughput
    slope[4] = 1.0
    slope[5] = B
    slope[6] = S
    slope[7] = C
    return float(p[5] + work + p[6] * B + p[7] * S + p[8] * C)


@kernel
def normal_equations(
    p: Array, rows: Array, weights: Array, outlier: float, slope: Array, gradient: Array, hessian: Array
) -> float:
    """Weighted mean of Huber's loss of log(predicted / measured), its gradient (8,) and Gauss-Newton Hessian (8, 8).

    `weights`, shape (n,), sum to 1; an error beyond `outlier` counts linearly. `slope`, shape (8,), is working memory.
    """
    gradient[:] = 0.0
    hessian[:] = 0.0
    loss = 0.0
    for i in range(len(rows)):
        predicted = sensitivity(p, rows[i, 0], rows[i, 1], rows[i, 2], slope)
        error = math.log(predicted / rows[i, 3])
        size = abs(error)
        trust = weights[i]
        if size > outlier:
            loss += trust * outlier * (size - 0.5 * outlier)
            trust *= outlier / size
        else:
            loss += trust * 0.5 * error * error
        for j in range(8):
            share = trust * slope[j] / predicted
            gradient[j] += error * share
            for k in range(j + 1):
                hessian[j, k] += share * slope[k] / predicted
    for j in range(8):
        for k in range(j):
            hessian[k, j] = hessian[j, k]
    return loss
