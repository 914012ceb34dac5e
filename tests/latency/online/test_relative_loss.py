"""The loss and its minimum: derivatives, coordinates of one scale, and truth recovered."""

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from latency_streams import BASE, THROTTLED, mean_error, rows_of

from batchpilot.latency import SaturationParameters
from batchpilot.latency.online.feasible import HIGHEST, LOWEST, check_feasible
from batchpilot.latency.online.refitting import minimise
from batchpilot.latency.online.relative_loss import Coordinates, RelativeLoss, equal_weights, signed_errors

FULL = SaturationParameters(9.0, 0.2, 0.01, w_0=3.0, tau_0=4.0, tau_b=0.05, tau_s=0.01, tau_c=1e-4)


def problem(rows, start=BASE, base=BASE, pull=0.01):
    coordinates = Coordinates.of(rows, start.as_array())
    return coordinates, RelativeLoss(rows, equal_weights(len(rows)), coordinates, base.as_array(), pull)


@pytest.mark.parametrize("seed", range(3))
def test_the_gradient_is_the_slope_of_the_loss(seed):
    # Errors straddle the bend of Huber's loss, so both of its branches count.
    coordinates, loss = problem(rows_of(THROTTLED, 200, seed, noise=0.2), FULL)
    x = coordinates.from_parameters(FULL.as_array())
    gradient = loss.at(x)[1]
    for place in np.flatnonzero(coordinates.unit):
        nudge = np.zeros(11)
        nudge[place] = 1e-6
        slope = (loss.at(x + nudge)[0] - loss.at(x - nudge)[0]) / 2e-6
        assert gradient[place] == pytest.approx(slope, rel=1e-4, abs=1e-8)


def test_the_gradient_of_what_stays_is_zero():
    coordinates, loss = problem(rows_of(BASE, 100) * [1, 1, 0, 1])
    _, gradient, _ = loss.at(coordinates.from_parameters(BASE.as_array()))
    stays = coordinates.unit == 0
    assert [name for name, still in zip(BASE.to_dict(), stays, strict=True) if still] == [
        "w_0",
        "w_1",
        "tau_c",
        "tau_e",
        "s_e",
    ]
    assert np.all(gradient[stays] == 0)


@given(st.lists(st.floats(0, 1), min_size=11, max_size=11))
def test_coordinates_lead_back_to_their_parameters(places):
    highest = np.where(np.isfinite(HIGHEST), HIGHEST, 100.0)
    parameters = np.array(places) * (highest - LOWEST) + LOWEST
    coordinates = Coordinates.of(rows_of(BASE, 20), parameters)
    back = coordinates.to_parameters(coordinates.from_parameters(parameters))
    assert back == pytest.approx(parameters, rel=1e-9, abs=1e-12)
    assert np.all((back >= LOWEST) & (back <= HIGHEST))


def test_a_refit_recovers_a_throttled_engine():
    coordinates, loss = problem(rows_of(THROTTLED, 2000))
    found = coordinates.to_parameters(minimise(loss, coordinates.from_parameters(BASE.as_array())))
    assert mean_error(SaturationParameters(*found), THROTTLED) < 0.01


def test_outliers_hardly_move_a_refit():
    rows = rows_of(BASE, 1000)
    rows[::20, 3] *= 30.0
    coordinates, loss = problem(rows)
    found = coordinates.to_parameters(minimise(loss, coordinates.from_parameters(BASE.as_array())))
    assert mean_error(SaturationParameters(*found), BASE) < 0.03


def test_the_pull_keeps_what_the_observations_do_not_tell():
    # One repeated step tells its time and nothing else; without other evidence the base's shape is kept.
    rows = np.tile([8.0, 8.0, 8000.0, 25.0], (500, 1))
    coordinates, loss = problem(rows)
    found = coordinates.to_parameters(minimise(loss, coordinates.from_parameters(BASE.as_array())))
    assert abs(signed_errors(found, rows[:1])[0]) < 0.02
    assert found[2] == pytest.approx(BASE.k_s, rel=0.5)


@given(
    st.lists(
        st.tuples(st.floats(1, 1e9), st.floats(1, 1e9), st.floats(0, 1e9), st.floats(0.2, 6e4)),
        min_size=1,
        max_size=20,
    )
)
def test_a_minimum_is_feasible_and_no_higher_than_the_start_whatever_the_observations(observations):
    rows = np.array(observations)
    coordinates, loss = problem(rows)
    start = coordinates.from_parameters(BASE.as_array())
    x = minimise(loss, start)
    assert loss.at(x)[0] <= loss.at(start)[0]
    check_feasible(SaturationParameters(*coordinates.to_parameters(x)))


def test_parameters_outside_the_feasible_set_are_named():
    with pytest.raises(ValueError, match=r"k_b is 50.*0\.0001 to 10"):
        check_feasible(SaturationParameters(1.0, 50.0, 0.01))
