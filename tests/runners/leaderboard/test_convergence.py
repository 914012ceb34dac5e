"""When a batch size counts as settled."""

import math

import pytest

from batchpilot.core import Limits, WindowMetrics
from batchpilot.runners.leaderboard.convergence import convergence


def windows(sizes):
    return [WindowMetrics(limits=Limits(size), start_ms=1000.0 * i, duration_ms=1000.0) for i, size in enumerate(sizes)]


def test_a_constant_size_settled_at_once():
    assert convergence(windows([8] * 10)) == (0.0, 0.0)


def test_a_probe_settles_when_it_ends():
    settled_s, stability = convergence(windows([1, 2, 4, 8, 16, 32, 16, 16, 16, 16, 16, 16, 16, 16, 16, 16]))
    assert settled_s == 6.0
    assert stability == 0.0


def test_small_oscillation_is_settled_with_its_spread():
    settled_s, stability = convergence(windows([20, 21, 20, 19] * 5))
    assert settled_s == 0.0
    assert stability == pytest.approx(math.sqrt(0.5) / 20)


def test_a_size_that_only_holds_still_at_the_very_end_never_settled():
    settled_s, stability = convergence(windows([8, 64] * 20 + [8]))
    assert math.isnan(settled_s)
    assert math.isnan(stability)


def test_no_windows_never_settle():
    assert math.isnan(convergence([])[0])
