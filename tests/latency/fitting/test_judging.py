"""Judging a model of step latency: each figure against its definition, and no look into the future."""

import math

import numpy as np
import pytest

from batchpilot.latency.fitting.judging import compare, forward_chaining, judge, trained_range
from batchpilot.latency.fitting.observations import Observations
from batchpilot.latency.fitting.regressor import LatencyRegressor
from batchpilot.latency.fitting.regressors import make_regressor


class LastSeen(LatencyRegressor):
    """Predicts the latest latency it was shown, and remembers how much that was."""

    name = "last seen"
    shown: list[int] = []  # noqa: RUF012 - shared on purpose: every fold makes a fresh one

    def fit(self, observations):
        self.last = observations.latency_ms[-1]
        self.shown.append(len(observations))
        return self

    def predict(self, observations):
        return np.full(len(observations), self.last)


def test_figures_are_their_definitions():
    found = judge(np.array([11.0, 18.0, 30.0, 44.0]), np.array([10.0, 20.0, 30.0, 40.0]))
    assert found.observations == 4
    assert found.mae_ms == pytest.approx((1 + 2 + 0 + 4) / 4)
    assert found.rmse_ms == pytest.approx(math.sqrt((1 + 4 + 0 + 16) / 4))
    assert found.mape == pytest.approx((0.1 + 0.1 + 0 + 0.1) / 4)
    assert found.r2 == pytest.approx(1 - 21 / 500)
    assert found.p95_error == pytest.approx(0.1)


def test_shapiro_tells_normal_residuals_from_others():
    rng = np.random.default_rng(0)
    measured = np.full(400, 100.0)
    assert judge(measured + rng.standard_normal(400), measured).shapiro_p > 0.05
    assert judge(measured + rng.exponential(1.0, 400), measured).shapiro_p < 0.001


def test_what_has_no_figure_is_nan():
    exact = judge(np.array([5.0, 5.0]), np.array([5.0, 5.0]))
    assert math.isnan(exact.r2)
    assert math.isnan(exact.shapiro_p)
    assert exact.mape == 0.0


@pytest.mark.parametrize(
    ("predicted", "measured", "says"), [([1.0], [1.0, 2.0], "shape"), ([], [], "shape"), ([1.0], [0.0], "not above 0")]
)
def test_what_cannot_be_judged_is_refused(predicted, measured, says):
    with pytest.raises(ValueError, match=says):
        judge(np.array(predicted), np.array(measured))


def test_forward_chaining_learns_only_from_the_past():
    LastSeen.shown.clear()
    steps = Observations.of(np.ones(12), np.ones(12), np.arange(1.0, 13.0))
    found = forward_chaining(LastSeen, steps, folds=5)
    assert LastSeen.shown == [2, 4, 6, 8, 10]
    # Each part of two is predicted by the last latency before it: off by 1 and by 2.
    assert found.mae_ms == pytest.approx(1.5)
    assert found.observations == 10


def test_too_few_steps_for_the_folds_are_not_validated():
    steps = Observations.of(np.ones(11), np.ones(11), np.arange(1.0, 12.0))
    assert forward_chaining(LastSeen, steps, folds=5) is None
    with pytest.raises(ValueError, match="folds is 0"):
        forward_chaining(LastSeen, steps, folds=0)


def test_extrapolation_trains_up_to_the_bounds_and_tests_beyond_either():
    steps = Observations.of([32, 33, 32, 64], [1024, 1024, 1025, 2048], [1, 1, 1, 1])
    assert trained_range(steps).tolist() == [True, False, False, False]


def test_a_linear_world_is_extrapolated_by_a_line():
    rng = np.random.default_rng(0)
    B, S = rng.integers(1, 65, 200), rng.integers(1, 2049, 200)
    found = compare(lambda: make_regressor("linear"), Observations.of(B, S, 3.0 + 0.1 * B + 0.05 * S))
    for part in (found.fitted, found.forward, found.inside, found.beyond):
        assert part.mape < 1e-9
    assert found.inside.observations + found.beyond.observations == 200


def test_without_steps_in_a_range_there_is_no_judgement_of_it():
    near = compare(lambda: make_regressor("linear"), Observations.of([1, 2, 4], [8, 9, 10], [1, 2, 4]))
    assert near.inside is not None
    assert near.beyond is None
    far = compare(lambda: make_regressor("linear"), Observations.of([64, 65, 70], [80, 90, 100], [1, 2, 4]))
    assert far.inside is None
    assert far.beyond is None
