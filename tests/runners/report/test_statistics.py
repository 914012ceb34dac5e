"""Point estimates and intervals: golden numbers by hand arithmetic or from scipy, laws by Hypothesis."""

import math
import random

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from scipy import stats
from synthetic_results import result_row, result_rows

from batchpilot.runners.report.statistics import (
    bootstrap_interval,
    estimate,
    interquartile_mean,
    probability_of_improvement,
    ratio_to_reference,
)

finite = st.floats(-1e6, 1e6)
samples = st.lists(finite, min_size=1, max_size=40)


def runs(scenario, tuner, shares):
    return [result_row(scenario, tuner, seed, goodput_fraction=share) for seed, share in enumerate(shares)]


@pytest.mark.parametrize(
    ("values", "mean"),
    [
        ([7.0], 7.0),
        ([1.0, 4.0], 2.5),
        ([0.0, 6.0, 18.0], (0.0 + 4 * 6.0 + 18.0) / 6),
        ([0.0, 1.0, 3.0, 100.0], 2.0),
        ([0.0, 4.0, 5.0, 8.0, 1000.0], (0.75 * 4 + 5 + 0.75 * 8) / 2.5),
    ],
)
def test_interquartile_mean_weighs_the_edges_of_the_middle_half(values, mean):
    assert float(interquartile_mean(values)) == pytest.approx(mean, rel=1e-12)


def test_interquartile_mean_equals_scipys_trimmed_mean_where_that_is_exact():
    values = np.random.default_rng(1).normal(size=(5, 32))
    np.testing.assert_allclose(interquartile_mean(values), stats.trim_mean(values, 0.25, axis=1), rtol=1e-12)


@given(samples)
def test_interquartile_mean_lies_between_the_quartiles_values(values):
    assert min(values) <= float(interquartile_mean(values)) <= max(values)


@given(samples, st.randoms(use_true_random=False))
def test_interquartile_mean_does_not_depend_on_order(values, shuffler):
    shuffled = list(values)
    shuffler.shuffle(shuffled)
    assert float(interquartile_mean(values)) == float(interquartile_mean(shuffled))


def test_interquartile_mean_of_a_missing_value_is_missing_even_where_it_would_be_trimmed():
    assert math.isnan(float(interquartile_mean([1.0, 2.0, 3.0, math.nan])))


def test_interquartile_mean_of_nothing_is_refused():
    with pytest.raises(ValueError, match="no values to average"):
        interquartile_mean([])


@given(st.lists(st.floats(0, 100), min_size=1, max_size=10), st.floats(-100, 100))
def test_interval_of_symmetric_data_contains_its_centre(distances, centre):
    values = [centre + sign * distance for distance in distances for sign in (-1, 1)]
    low, high = bootstrap_interval([values], np.random.default_rng(0), resamples=400)
    assert low - 1e-9 <= centre <= high + 1e-9


def test_equal_seeds_give_equal_intervals_and_others_do_not():
    strata = [np.random.default_rng(3).normal(size=8) for _ in range(3)]
    first, again, other = (bootstrap_interval(strata, np.random.default_rng(seed)) for seed in (5, 5, 6))
    assert first == again
    assert first != other


def test_seeds_are_resampled_within_a_scenario_and_never_between_scenarios():
    assert bootstrap_interval([[0.0, 0.0], [1.0, 1.0]], np.random.default_rng(0)) == (0.5, 0.5)


def test_interval_of_two_seeds_spans_both():
    # The means of the four equally likely resamples of (0, 1) are 0, 1/2, 1/2 and 1.
    assert bootstrap_interval([[0.0, 1.0]], np.random.default_rng(0)) == (0.0, 1.0)


def test_interval_of_a_mean_is_that_of_the_normal_approximation_for_many_seeds():
    values = np.random.default_rng(2).normal(size=400)
    interval = bootstrap_interval([values], np.random.default_rng(0), statistic=lambda drawn: drawn.mean(axis=-1))
    expected = stats.norm.interval(0.95, values.mean(), values.std() / 20)
    np.testing.assert_allclose(interval, expected, atol=0.05 * (expected[1] - expected[0]))


@pytest.mark.parametrize("strata", [[], [[1.0]], [[1.0, 2.0], [3.0]]])
def test_a_scenario_with_one_seed_has_no_interval(strata):
    assert all(math.isnan(end) for end in bootstrap_interval(strata, np.random.default_rng(0)))


@pytest.mark.parametrize("changes", [{"confidence": 1.0}, {"confidence": 0.0}, {"resamples": 0}])
def test_impossible_bootstrap_settings_are_refused(changes):
    with pytest.raises(ValueError, match="allowed"):
        bootstrap_interval([[1.0, 2.0]], np.random.default_rng(0), **changes)


def test_estimate_leaves_out_what_is_not_finite_and_counts_it():
    found = estimate([[1.0, math.nan, 3.0], [math.inf]])
    assert (found.value, found.count, found.left_out) == (2.0, 2, 2)


def test_estimate_of_nothing_is_missing():
    found = estimate([[math.nan]])
    assert math.isnan(found.value)
    assert (found.count, found.left_out, found.has_interval) == (0, 1, False)


def test_ratio_is_paired_by_seed_before_it_is_averaged():
    rows = runs("chat", "dynamic", [0.2, 0.9]) + runs("chat", "static-8", [0.1, 0.9])
    found = ratio_to_reference(rows, "dynamic", "static-8").per_scenario["chat"]
    assert found.value == pytest.approx((2 + 1) / 2)
    assert (found.low, found.high) == pytest.approx((1, 2))


def test_overall_ratio_is_the_interquartile_mean_over_all_pairs():
    rows = [
        *runs("a", "dynamic", [0.5, 0.6]),
        *runs("a", "static-8", [0.5, 0.5]),
        *runs("b", "dynamic", [0.9, 0.1]),
        *runs("b", "static-8", [0.3, 0.5]),
    ]
    # Ratios 1, 1.2, 3 and 0.2: the middle two are 1 and 1.2.
    assert ratio_to_reference(rows, "dynamic", "static-8").overall.value == pytest.approx(1.1)


def test_a_reference_that_served_nothing_gives_no_ratio_but_a_strategys_own_zero_counts():
    rows = runs("chat", "dynamic", [0.4, 0.0, 0.5]) + runs("chat", "static-8", [0.0, 0.5, 0.5])
    found = ratio_to_reference(rows, "dynamic", "static-8").per_scenario["chat"]
    assert found.value == pytest.approx((0 + 1) / 2)
    assert (found.count, found.left_out) == (2, 1)


def test_a_missing_figure_on_either_side_is_left_out_and_counted():
    rows = runs("chat", "dynamic", [math.nan, 0.6, 0.5]) + runs("chat", "static-8", [0.5, 0.5, math.nan])
    found = ratio_to_reference(rows, "dynamic", "static-8").overall
    assert (found.value, found.count, found.left_out) == (pytest.approx(1.2), 1, 2)


def test_runs_without_a_counterpart_are_passed_over():
    rows = runs("chat", "dynamic", [0.5, 0.6, 0.9]) + runs("chat", "static-8", [0.5, 0.5])
    assert ratio_to_reference(rows, "dynamic", "static-8").overall.count == 2


def test_one_seed_has_a_ratio_and_no_interval():
    rows = result_rows(seeds=1)
    found = ratio_to_reference(rows, "dynamic", "static-best")
    assert all(math.isfinite(one.value) and not one.has_interval for one in found.per_scenario.values())
    assert not found.overall.has_interval


def test_the_order_of_rows_changes_nothing():
    rows = result_rows(seeds=4)
    shuffled = random.Random(0).sample(rows, len(rows))
    assert ratio_to_reference(rows, "dynamic", "static-8") == ratio_to_reference(shuffled, "dynamic", "static-8")


def test_a_ratio_to_itself_is_exactly_one():
    overall = ratio_to_reference(result_rows(), "static-8", "static-8").overall
    assert (overall.value, overall.low, overall.high) == (1.0, 1.0, 1.0)


def test_probability_of_improvement_counts_pairs_won_and_half_of_the_ties():
    rows = runs("chat", "dynamic", [0.6, 0.5, 0.4, 0.9]) + runs("chat", "static-8", [0.5, 0.5, 0.5, 0.5])
    assert probability_of_improvement(rows, "dynamic", "static-8").overall.value == pytest.approx(2.5 / 4)


def test_an_unknown_reference_is_named_with_the_closest_one():
    with pytest.raises(ValueError, match="did you mean 'static-best'"):
        ratio_to_reference(result_rows(seeds=1), "dynamic", "static-bset")


def test_two_rows_of_one_run_are_refused():
    rows = result_rows(seeds=1)
    with pytest.raises(ValueError, match=r"dynamic has two rows for scenario 'chat-a100' and seed 0"):
        ratio_to_reference([*rows, result_row("chat-a100", "dynamic", 0)], "dynamic", "static-8")
