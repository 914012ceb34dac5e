"""Statistics of two samples against SciPy and against their promises."""

import numpy as np
import pytest
from scipy import stats

from batchpilot.latency.online.two_samples import (
    autocorrelation_time,
    ks_distance,
    ks_threshold,
    mann_whitney_p,
    spent_level,
    where_it_changed,
)


def two_samples(seed, shift=0.0, rounded=False):
    rng = np.random.default_rng(seed)
    first, second = rng.standard_normal(120), shift + rng.standard_normal(80)
    return (first.round(1), second.round(1)) if rounded else (first, second)


@pytest.mark.parametrize("rounded", [False, True])
@pytest.mark.parametrize("shift", [0.0, 0.3, 5.0])
def test_statistics_equal_those_of_scipy(shift, rounded):
    first, second = two_samples(3, shift, rounded)
    assert ks_distance(np.sort(first), np.sort(second)) == pytest.approx(stats.ks_2samp(first, second).statistic)
    reference = stats.mannwhitneyu(second, first, alternative="greater", method="asymptotic")
    assert mann_whitney_p(first, second) == pytest.approx(reference.pvalue, rel=1e-6)


def test_equal_constants_are_no_degradation():
    assert mann_whitney_p(np.ones(50), np.ones(20)) == 1.0


def test_levels_spent_over_endless_tests_add_up_to_the_level():
    spent = sum(spent_level(0.05, test) for test in range(1, 100_001))
    assert spent == pytest.approx(0.05, rel=1e-4)
    assert spent < 0.05


@pytest.mark.parametrize("sizes", [(100, 100), (1000, 100)])
@pytest.mark.parametrize("level", [0.05, 0.01])
def test_samples_of_one_distribution_exceed_the_threshold_no_more_often_than_the_level(sizes, level):
    rng = np.random.default_rng(7)
    threshold = ks_threshold(level, *sizes)
    distances = [ks_distance(*(np.sort(rng.random(size)) for size in sizes)) for _ in range(1000)]
    assert np.mean(np.array(distances) > threshold) <= level


def test_independent_values_count_in_full_and_slow_ones_for_less():
    rng = np.random.default_rng(0)
    noise = rng.standard_normal(1000)
    slow = np.convolve(rng.standard_normal(1019), np.ones(20), "valid")
    assert autocorrelation_time(noise) < 2.0
    assert autocorrelation_time(slow) > 5.0
    assert autocorrelation_time(slow[:150]) == 1.0


@pytest.mark.parametrize("change", [10, 60, 95])
def test_the_place_of_a_jump_is_found(change):
    rng = np.random.default_rng(change)
    reference, recent = np.sort(rng.standard_normal(500)), rng.standard_normal(100)
    recent[change:] -= 6.0
    assert abs(where_it_changed(reference, recent) - change) <= 1
