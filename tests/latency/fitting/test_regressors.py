"""Models of step latency behind one interface."""

import numpy as np
import pytest

from batchpilot.latency.fitting.observations import Observations
from batchpilot.latency.fitting.regressors import (
    REGRESSORS,
    GivenRegressor,
    PolynomialRegressor,
    SaturationRegressor,
    make_regressor,
)
from batchpilot.latency.model.saturation import SaturationParameters

RNG = np.random.default_rng(0)
B = RNG.integers(1, 33, 80)
S = B * RNG.integers(1, 40, 80)
C = B * RNG.integers(0, 900, 80)


@pytest.mark.parametrize("context", [False, True])
@pytest.mark.parametrize("loss", ["absolute", "relative"])
@pytest.mark.parametrize("degree", [1, 2])
def test_a_polynomial_finds_its_own_coefficients(degree, loss, context):
    latency_ms = 5.0 + 0.3 * B + 0.02 * S
    if degree == 2:
        latency_ms = latency_ms + 1e-3 * B**2 + 2e-5 * S**2
    if context:
        latency_ms = latency_ms + 1e-4 * C
    observed = Observations.of(B, S, latency_ms, C)
    regressor = PolynomialRegressor(degree, context=context, loss=loss)
    assert regressor.fit(observed).predict(observed) == pytest.approx(latency_ms, rel=1e-6)


def test_the_documents_polynomial_has_no_product_of_batch_size_and_tokens():
    product = Observations.of(B, S, 5.0 + 1e-2 * B * S)
    off = PolynomialRegressor(2).fit(product).predict(product) - product.latency_ms
    assert np.max(np.abs(off)) > 0.01 * np.max(product.latency_ms)


def test_each_loss_is_lowest_for_the_polynomial_that_minimises_it():
    latency_ms = np.where(S < 200, 40.0, S * 0.5)
    observed = Observations.of(B, S, latency_ms)
    absolute, relative = (
        PolynomialRegressor(1, loss=loss).fit(observed).predict(observed) - latency_ms
        for loss in ("absolute", "relative")
    )
    assert np.sum(absolute**2) < np.sum(relative**2)
    assert np.sum((relative / latency_ms) ** 2) < np.sum((absolute / latency_ms) ** 2)


@pytest.mark.parametrize("name", REGRESSORS)
def test_prediction_never_looks_at_the_measured_time(name):
    observed = Observations.of(B, S, 5.0 + 0.3 * B + 0.02 * S, C)
    hidden = Observations.of(B, S, np.ones(80), C)
    regressor = make_regressor(name).fit(observed)
    assert regressor.name == name
    assert np.array_equal(regressor.predict(observed), regressor.predict(hidden))


@pytest.mark.parametrize("name", REGRESSORS)
def test_what_was_not_fitted_does_not_predict(name):
    observed = Observations.of(B, S, 1.0 * S)
    with pytest.raises(ValueError, match="not been fitted"):
        make_regressor(name).predict(observed)


@pytest.mark.parametrize("name", [*REGRESSORS, None])
def test_nothing_to_learn_from_is_refused(name):
    regressor = make_regressor(name) if name else GivenRegressor("given", SaturationParameters(5.0, 1.0, 0.01))
    for nothing, says in (
        (Observations.of([], [], []), "no observations"),
        (Observations.of([1], [1], [0]), "cleaned"),
    ):
        with pytest.raises(ValueError, match=says):
            regressor.fit(nothing)


def test_the_bottleneck_finds_its_own_switch():
    read_ms, compute_ms = 12.0 + 2e-4 * C, 0.05 * S
    observed = Observations.of(B, S, 3.0 + 0.2 * B + np.maximum(read_ms, compute_ms), C)
    regressor = make_regressor("bottleneck").fit(observed)
    assert regressor.predict(observed) == pytest.approx(observed.latency_ms, rel=1e-3)
    assert np.array_equal(regressor.bound_by_memory(observed), read_ms >= compute_ms)
    assert 0 < np.count_nonzero(read_ms >= compute_ms) < len(B)


def test_the_gaussian_process_learns_a_form_that_no_other_has_between_what_it_saw():
    def odd_ms(tokens):
        return 20.0 + 5.0 * np.sin(np.log(tokens))

    seen, between = np.geomspace(2, 4000, 60), np.geomspace(4, 2000, 37)
    process, line = (make_regressor(name) for name in ("gaussian process", "linear"))
    observed, asked = (Observations.of(np.ones_like(S), S, odd_ms(S)) for S in (seen, between))
    off, linear_off = (
        np.abs(regressor.fit(observed).predict(asked) / asked.latency_ms - 1).mean() for regressor in (process, line)
    )
    assert off < 0.02 < linear_off


def test_given_parameters_are_not_touched_by_a_fit():
    given = SaturationParameters(5.0, 1.0, 0.01)
    observed = Observations.of(B, S, 1.0 * S)
    assert GivenRegressor("given", given).fit(observed).predict(observed) == pytest.approx(given.predict(B, S))


def test_the_saturation_regressor_keeps_what_its_fit_found():
    truth = SaturationParameters(5.0, 1.0, 0.01, tau_0=4.0)
    observed = Observations.of(B, S, truth.predict(B, S))
    regressor = SaturationRegressor(fixed={"w_0": 0.0, "tau_s": 0.0}).fit(observed)
    assert regressor.result.parameters.p_max == pytest.approx(5.0, rel=1e-3)


def test_names_tell_variants_apart():
    assert make_regressor("linear", loss="relative").name == "linear (relative)"
    assert make_regressor("polynomial", context=True, loss="relative").name == "polynomial+C (relative)"
    with pytest.raises(ValueError, match="did you mean 'linear'"):
        make_regressor("liner")
    with pytest.raises(ValueError, match="degree is 3"):
        PolynomialRegressor(3)
