"""The bounded step of the solver is the lowest point of its quadratic model within the bounds."""

import numpy as np
import pytest
from scipy.optimize import lsq_linear

from batchpilot.latency.fitting.solver import bounded_step


@pytest.mark.parametrize("seed", range(20))
def test_a_bounded_step_is_the_lowest_point_within_the_bounds(seed):
    rng = np.random.default_rng(seed)
    rows, off = rng.standard_normal((12, 7)), 3 * rng.standard_normal(12)
    low, high = -rng.random(7), rng.random(7)
    step = bounded_step(rows.T @ rows, rows.T @ off, low, high)
    lowest = lsq_linear(rows, -off, (low, high), tol=1e-14).x
    assert step == pytest.approx(lowest, abs=1e-6)
    assert np.all((low <= step) & (step <= high))


def test_a_step_within_wide_bounds_is_newtons():
    rng = np.random.default_rng(0)
    rows, slope = rng.standard_normal((12, 5)), rng.standard_normal(5)
    step = bounded_step(rows.T @ rows, slope, np.full(5, -1e9), np.full(5, 1e9))
    assert rows.T @ rows @ step == pytest.approx(-slope)
