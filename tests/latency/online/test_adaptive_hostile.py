"""No stream leads the parameters out of the feasible set, or makes recording or updating raise."""

import math

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from latency_streams import BASE, feed, rows_of

from batchpilot.latency.online import UPDATE_RULES, AdaptiveLatency, Triggers
from batchpilot.latency.online.feasible import check_feasible

ODD = st.one_of(
    st.floats(allow_nan=True, allow_infinity=True),
    st.sampled_from([0.0, -1.0, 1.0, 1e9, 1e-300, math.nan, math.inf, 0.11, 59_999.0]),
)
STEP = st.tuples(st.floats(1, 1e9), st.floats(1, 1e9), st.floats(0, 1e9), st.floats(0.11, 59_999))
EAGER = Triggers(look_every=1, min_observations=2, interval=1, held_out=5)


@settings(max_examples=60, deadline=None)
@given(
    st.sampled_from(list(UPDATE_RULES)),
    st.lists(st.tuples(st.one_of(STEP, st.tuples(ODD, ODD, ODD, ODD)), st.integers(1, 4)), max_size=40),
)
def test_no_stream_leads_out_of_the_feasible_set(rule, stream):
    adaptive = AdaptiveLatency(BASE, rule=rule, triggers=EAGER)
    for observation, repeats in stream:
        for _ in range(repeats):
            adaptive.record(*observation)
            adaptive.update()
            check_feasible(adaptive.adapted)
            assert math.isfinite(adaptive.predict(8, 40, 5000))


def constant_shape(rng, count):
    return np.column_stack([np.full((count, 2), 16.0), np.zeros(count), 20 * np.exp(rng.standard_normal(count))])


def alternating_extremes(rng, count):
    return np.column_stack([np.ones((count, 2)), np.zeros(count), np.where(np.arange(count) % 2, 0.11, 59_999.0)])


def glitches(rng, count):
    rows = rows_of(BASE, count, 5)
    bad = rng.random(count) < 0.3
    rows[bad, 3] = rng.choice([math.nan, -1.0, 0.0, math.inf, 0.2, 50_000.0], bad.sum())
    return rows


def impossible_gradients(rng, count):
    return np.column_stack(
        [rng.integers(1, 64, (count, 2)), rng.integers(0, 10**6, count), 1e4 / np.arange(1.0, count + 1)]
    )


@pytest.mark.parametrize("rule", UPDATE_RULES)
@pytest.mark.parametrize("stream", [constant_shape, alternating_extremes, glitches, impossible_gradients])
def test_adversarial_streams_stay_feasible_to_their_end(rule, stream):
    adaptive = AdaptiveLatency(BASE, rule=rule)
    feed(adaptive, stream(np.random.default_rng(0), 1500))
    check_feasible(adaptive.adapted)
    assert adaptive.status()["updates_failed"] == 0
    assert math.isfinite(adaptive.predict(64, 2048, 1e6))


@pytest.mark.parametrize("rule", UPDATE_RULES)
def test_a_third_of_glitches_does_not_spoil_the_predictions_of_the_rest(rule):
    adaptive = AdaptiveLatency(BASE, rule=rule)
    feed(adaptive, glitches(np.random.default_rng(1), 2000))
    clean = rows_of(BASE, 500, 9, noise=0.0)
    errors = np.abs(adaptive.adapted.predict(*clean.T[:3]) / clean[:, 3] - 1)
    assert errors.mean() < 0.1
