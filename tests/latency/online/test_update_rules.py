"""Update rules: what they learn from, and how the momentum rule paces itself."""

import json
from dataclasses import replace

import numpy as np
import pytest
from latency_streams import BASE, THROTTLED, mean_error, rows_of

from batchpilot.latency import SaturationParameters
from batchpilot.latency.online import UPDATE_RULES, History, Momentum, Refit, make_update_rule

NOW, THEN = rows_of(THROTTLED, 300, 1), rows_of(BASE, 3000)


def proposal(rule, rows, current=BASE):
    return SaturationParameters(*rule.propose(current.as_array(), BASE.as_array(), History(rows), 0))


@pytest.mark.parametrize("name", UPDATE_RULES)
def test_every_rule_moves_towards_a_throttled_engine(name):
    assert mean_error(proposal(make_update_rule(name), NOW), THROTTLED) < 0.1 < mean_error(BASE, THROTTLED)


@pytest.mark.parametrize("name", UPDATE_RULES)
def test_every_rule_stays_where_it_is_right(name):
    assert mean_error(proposal(make_update_rule(name), THEN), BASE) < 0.03


@pytest.mark.parametrize("name", UPDATE_RULES)
def test_no_rule_moves_w_1(name):
    assert proposal(make_update_rule(name), NOW).w_1 == BASE.w_1


def test_a_sliding_window_forgets_what_it_has_left_behind():
    rows = np.concatenate([THEN, NOW])
    short, long = (mean_error(proposal(Refit(window), rows), THROTTLED) for window in (300, 5000))
    assert short < 0.02 < 0.2 < long


def test_weights_that_fade_let_the_newest_hundreds_decide():
    rows = np.concatenate([THEN, NOW])
    assert mean_error(proposal(Refit(5000, decay=0.99), rows), THROTTLED) < 0.05


def test_momentum_sees_each_observation_once():
    rule = Momentum()
    first = proposal(rule, NOW)
    again = proposal(rule, NOW, first)
    assert again.as_array() == pytest.approx(first.as_array(), rel=1e-12)


def test_momentum_slows_down_after_five_proposals_in_a_row_without_gain():
    rule = Momentum(rate=0.1)
    for accepted in (False, False, False, False, True, False, False, False, False):
        rule.hear(accepted)
    assert rule.rate == 0.1
    rule.hear(False)
    assert rule.rate == pytest.approx(0.095)
    rule.reset()
    assert rule.rate == 0.1


def test_a_dropped_proposal_takes_the_momentum_with_it():
    kept, dropped = Momentum(), Momentum()
    for rule, accepted in ((kept, True), (dropped, False)):
        rule.propose(BASE.as_array(), BASE.as_array(), History(NOW[:50]), 0)
        rule.hear(accepted)
    rows = History(NOW[:60])
    moved, still = (rule.propose(BASE.as_array(), BASE.as_array(), rows, 0) for rule in (kept, dropped))
    assert np.abs(np.log(moved[0] / BASE.p_max)) > np.abs(np.log(still[0] / BASE.p_max))


def test_a_restored_momentum_rule_proposes_the_same():
    rule, restored = Momentum(), Momentum()
    proposal(rule, NOW[:150])
    restored.load_state_dict(json.loads(json.dumps(rule.state_dict())))
    assert proposal(restored, NOW) == proposal(rule, NOW)


@pytest.mark.parametrize("wrong", [{}, {"rate": -1, "velocity": [0] * 9, "seen": 0, "without_gain": 0}])
def test_a_wrong_momentum_state_is_refused(wrong):
    with pytest.raises(ValueError, match="saved momentum rule"):
        Momentum().load_state_dict(wrong)


@pytest.mark.parametrize(
    ("rule", "arguments"),
    [
        (Momentum, {"rate": 0.0}),
        (Momentum, {"momentum": 1.0}),
        (Momentum, {"batch": 0}),
        (Refit, {"window": 0}),
        (Refit, {"decay": 1.5}),
        (Refit, {"pull": -1.0}),
    ],
)
def test_settings_outside_their_bounds_are_refused(rule, arguments):
    with pytest.raises(ValueError, match=next(iter(arguments))):
        rule(**arguments)


def test_an_unknown_rule_is_answered_with_the_closest():
    with pytest.raises(ValueError, match="did you mean 'sliding'"):
        make_update_rule("slidding")


def test_a_dense_model_does_not_grow_experts_and_a_mixture_keeps_learning_them():
    rng = np.random.default_rng(3)
    B = rng.integers(1, 200, 400).astype(float)
    S, C = B + rng.integers(0, 500, 400), 800 * B
    mixture = replace(BASE, tau_e=20.0, s_e=80.0)
    slower = np.stack([B, S, C, mixture.scaled(1.3).predict(B, S, C)], axis=1)
    rule = Refit()
    dense = SaturationParameters(*rule.propose(BASE.as_array(), BASE.as_array(), History(slower), 0))
    learned = SaturationParameters(*rule.propose(mixture.as_array(), mixture.as_array(), History(slower), 0))
    assert dense.tau_e == 0
    assert learned.tau_e > mixture.tau_e
    assert learned.s_e == mixture.s_e


def test_the_momentum_of_a_state_from_before_the_experts_term_is_read():
    state = Momentum().state_dict() | {"velocity": [0.1] * 9}
    rule = Momentum()
    rule.load_state_dict(state)
    assert rule.state_dict()["velocity"] == [0.1] * 9 + [0.0, 0.0]
