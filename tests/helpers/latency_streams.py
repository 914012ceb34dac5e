"""Streams of steps as an engine would report them: decodes with an occasional prompt, and multiplicative noise."""

import numpy as np

from batchpilot.latency import SaturationParameters

BASE = SaturationParameters(p_max=12.0, k_b=10.0, k_s=0.008, tau_0=5.0, tau_b=0.02, tau_c=3e-4)
THROTTLED = BASE.scaled(1 / 0.7)


def steps(count, rng):
    """Columns B, S and C, shape (count, 3)."""
    B = rng.integers(1, 64, count)
    S = B + np.where(rng.random(count) < 0.2, rng.integers(50, 2000, count), 0)
    return np.stack([B, S, B * rng.integers(100, 2000, count)], axis=1).astype(float)


def rows_of(parameters, count, seed=0, noise=0.05):
    """Columns B, S, C and T of steps that follow the parameters, shape (count, 4)."""
    rng = np.random.default_rng(seed)
    BSC = steps(count, rng)
    T = parameters.predict(*BSC.T) * np.exp(noise * rng.standard_normal(count))
    return np.column_stack([BSC, T])


def feed(adaptive, rows):
    """Record and update step by step; the updates that were attempted."""
    attempts = []
    for row in rows.tolist():
        adaptive.record(*row)
        if (update := adaptive.update()) is not None:
            attempts.append(update)
    return attempts


def mean_error(parameters, truth, count=500, seed=99):
    """Mean relative error of parameters against the truth, without noise, on steps of their own."""
    BSC = steps(count, np.random.default_rng(seed)).T
    return float(np.mean(np.abs(parameters.predict(*BSC) / truth.predict(*BSC) - 1)))
