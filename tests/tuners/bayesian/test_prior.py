"""A twin's word before trials, and how trials overrule it."""

import numpy as np
import pytest

from batchpilot.tuners.bayesian.prior import Prior, possible_factors, prior_of

NOTCHES = range(0, 33, 2)


def at(*notches):
    return [{"batch_size_notch": notch} for notch in notches]


def peak(best, height=1.0):
    """Values of the notches, the more so the nearer to the best."""
    return [height * np.exp(-abs(notch - best) / 8) for notch in NOTCHES]


def prior(*bests):
    return Prior(at(*NOTCHES), np.array([peak(best) for best in bests]))


def test_possible_servers_lie_around_the_twin():
    factors = possible_factors(0.25, 5)
    assert factors[2] == pytest.approx(1.0)
    assert factors[0] * factors[-1] == pytest.approx(1.0)
    assert (np.diff(factors) > 0).all()


@pytest.mark.parametrize("values", [np.zeros((3, 2)), np.zeros((0, 17)), np.full((1, 17), np.nan)])
def test_values_that_do_not_fit_the_candidates_are_refused(values):
    with pytest.raises(ValueError, match="prior"):
        Prior(at(*NOTCHES), values)


def test_trials_begin_at_the_best_in_expectation_then_of_fast_and_slow_servers():
    assert prior(24, 20, 16, 12, 8).guesses() == at(16, 20, 12)
    assert prior(16, 16, 16).guesses() == at(16)


def test_without_trials_the_twin_is_believed():
    believed = prior(24, 16)
    assert believed.posterior([]).mean == pytest.approx(believed.expected.mean(axis=0))
    assert believed.posterior([]).weights.sum() == pytest.approx(1.0)


def test_trials_that_one_server_foresaw_make_it_the_likely_one():
    believed = prior(28, 16, 4)
    told = [(params, believed.expected[2, believed.nearest([params])[0]]) for params in at(16, 24)]
    assert int(np.argmax(believed.posterior(told).mean)) == int(np.argmax(believed.expected[2]))


def test_a_wrong_twin_is_overruled_where_it_was_measured():
    believed = prior(26, 24, 22)
    truth = dict(zip(NOTCHES, peak(4), strict=True))
    told = [(params, truth[params["batch_size_notch"]]) for params in at(24, 20, 28)]
    posterior = believed.posterior(told)
    for params, value in told:
        assert posterior.mean[believed.nearest([params])[0]] == pytest.approx(value, abs=0.05)
    best = max(value for _, value in told)
    assert at(24)[0] != believed.params[int(np.argmax(posterior.improvement(best)))]


def test_measuring_finds_the_best_although_no_server_has_it():
    believed = prior(28, 24, 20)
    truth = dict(zip(NOTCHES, peak(6), strict=True))
    told = []
    for _ in range(9):
        gains = believed.posterior(told).improvement(max((value for _, value in told), default=-np.inf))
        left = [place for place, params in enumerate(believed.params) if params not in [one for one, _ in told]]
        params = believed.params[max(left, key=lambda place: gains[place])]
        told.append((params, truth[params["batch_size_notch"]]))
    assert max(value for _, value in told) == max(truth.values())


def test_candidates_lie_near_the_best_of_each_server_and_violations_count_against_them():
    def value(params, factor):
        notch = params["batch_size_notch"]
        return -abs(notch - 16 / factor), float(notch > 18)

    def nearby(params):
        return at(*(params["batch_size_notch"] + move for move in (-1, 1)))

    made = prior_of(at(0, 8, 16, 24, 32), value, nearby=nearby, rounds=3)
    notches = [params["batch_size_notch"] for params in made.params]
    assert len(set(notches)) == len(notches)
    assert {13, 14, 15, 16, 17} <= set(notches)
    best = made.params[int(np.argmax(made.expected.mean(axis=0)))]
    assert best["batch_size_notch"] <= 18
