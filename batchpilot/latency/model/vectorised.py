"""The saturation model over arrays: loops without calls or branches, which become vector instructions. Times in ms.

Parameters `p` are in field order; arrays are one-dimensional, contiguous and of one length. Nothing is checked here.
"""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

from batchpilot.latency.model.compiled import inlined, kernel

Floats = NDArray[np.float64]


@inlined
def _expm1_of_negative(x: float) -> float:
    """exp(x) - 1 for x <= 0 within 1e-15, by arithmetic alone: the library's own cannot be vectorised.

    A Taylor series of exp(x / 256) - 1, then eight times expm1(2y) = expm1(y) * (expm1(y) + 2), which does not amplify
    relative errors where y < 0. Below -40 the result is -1 in double precision.
    """
    x = max(x, -40.0) / 256
    series = x / 40320 + 1 / 5040
    series = x * (x * (x * (x * series + 1 / 720) + 1 / 120) + 1 / 24) + 1 / 6
    y = x * (x * (x * series + 1 / 2) + 1)
    for _ in range(8):
        y *= y + 2
    return y


@kernel
def steps_ms(p: Floats, B: Floats, S: Floats, C: Floats, out: Floats) -> None:
    """T(B, S, C) in ms of each step into `out`."""
    p_max, k_b, k_s, w_0, w_1, tau_0, tau_b, tau_s, tau_c = p[0], p[1], p[2], p[3], p[4], p[5], p[6], p[7], p[8]
    tau_e, s_e = p[9], p[10]
    for i in range(out.size):
        throughput = p_max * _expm1_of_negative(-k_b * B[i]) * _expm1_of_negative(-k_s * S[i])
        # np.divide raises nothing on zero; the check behind `/` would keep the loop scalar.
        work = np.divide(w_0 + w_1 * S[i], throughput)
        out[i] = tau_0 + work + tau_b * B[i] + tau_s * S[i] + tau_c * C[i] + np.divide(tau_e * S[i], S[i] + s_e)


@kernel
def steps_gradient(p: Floats, B: Floats, S: Floats, C: Floats, out: Floats) -> None:
    """dT/dtheta of each step into `out`, shape (11, n), a row per parameter in field order."""
    p_max, k_b, k_s, w_0, w_1 = p[0], p[1], p[2], p[3], p[4]
    tau_e, s_e = p[9], p[10]
    for i in range(B.size):
        by_requests = _expm1_of_negative(-k_b * B[i])
        by_tokens = _expm1_of_negative(-k_s * S[i])
        per_work = np.divide(1.0, p_max * by_requests * by_tokens)
        work = (w_0 + w_1 * S[i]) * per_work
        out[0, i] = np.divide(-work, p_max)
        out[1, i] = np.divide(work * B[i] * (1.0 + by_requests), by_requests)
        out[2, i] = np.divide(work * S[i] * (1.0 + by_tokens), by_tokens)
        out[3, i] = per_work
        out[4, i] = S[i] * per_work
        out[5, i] = 1.0
        out[6, i] = B[i]
        out[7, i] = S[i]
        out[8, i] = C[i]
        out[9, i] = np.divide(S[i], S[i] + s_e)
        out[10, i] = np.divide(-tau_e * S[i], (S[i] + s_e) * (S[i] + s_e))
