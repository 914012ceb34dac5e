"""The adaptive model as its owner sees it: what triggers updates, what replaces parameters, what is kept and told."""

import json
import logging

import numpy as np
import pytest
from latency_streams import BASE, THROTTLED, feed, mean_error, rows_of

from batchpilot.latency import SaturationParameters, step_ms
from batchpilot.latency.online import UPDATE_RULES, AdaptiveLatency, Monitor, Triggers, UpdateRule

JUMP = np.concatenate([rows_of(BASE, 1000), rows_of(THROTTLED, 400, 1)])


class Fixed(UpdateRule):
    """Proposes the same parameters always, or an exception."""

    name = "fixed"

    def __init__(self, answer):
        self.answer = answer if isinstance(answer, Exception) else np.array(answer)
        self.heard = []
        self.resets = 0
        self.learnt_from = []

    def propose(self, current, base, history, since):
        self.learnt_from.append((since, history.end))
        if isinstance(self.answer, Exception):
            raise self.answer
        return self.answer

    def hear(self, accepted):
        self.heard.append(accepted)

    def reset(self):
        self.resets += 1


def test_before_anything_is_recorded_the_base_answers():
    adaptive = AdaptiveLatency(BASE)
    assert adaptive.update() is None
    assert adaptive.parameters == adaptive.adapted == adaptive.base == BASE
    assert adaptive.predict(8, 40, 5000) == step_ms(BASE.as_array(), 8, 40, 5000)


@pytest.mark.parametrize("name", UPDATE_RULES)
@pytest.mark.parametrize("factor", [1 / 0.7, 0.6, 2.0])
def test_every_rule_follows_a_jump_within_200_observations(name, factor):
    adaptive, truth = AdaptiveLatency(BASE, rule=name), BASE.scaled(factor)
    feed(adaptive, rows_of(BASE, 1500))
    feed(adaptive, rows_of(truth, 200, 1))
    assert mean_error(adaptive.parameters, truth) < 0.1 < mean_error(BASE, truth)


def test_an_update_replaces_the_parameters_that_answer():
    adaptive = AdaptiveLatency(BASE)
    feed(adaptive, JUMP)
    assert adaptive.parameters == adaptive.adapted != BASE
    assert adaptive.predict(8, 40, 5000) == step_ms(adaptive.adapted.as_array(), 8, 40, 5000)
    assert adaptive.status()["version"] == adaptive.status()["updates_accepted"] > 0


def test_a_severe_change_makes_updates_learn_only_from_what_came_after_it():
    rule = Fixed(THROTTLED.as_array())
    adaptive = AdaptiveLatency(BASE, rule=rule)
    feed(adaptive, JUMP)
    assert adaptive.status()["regime_start"] == pytest.approx(1000, abs=10)
    assert rule.learnt_from[-1][0] == adaptive.status()["regime_start"]
    assert rule.resets == adaptive.status()["drifts"] == 1


def test_whoever_never_forgets_learns_from_everything_kept():
    rule = Fixed(THROTTLED.as_array())
    adaptive = AdaptiveLatency(BASE, rule=rule, forget_severity=np.inf)
    feed(adaptive, JUMP)
    assert adaptive.status()["drifts"] >= 1
    assert rule.learnt_from[-1][0] == 0


def test_the_newest_observations_are_held_out_of_learning():
    rule = Fixed(BASE.as_array())
    updates = feed(AdaptiveLatency(BASE, rule=rule, triggers=Triggers(held_out=50)), rows_of(BASE, 1000))
    assert [update.observation - end for update, (_, end) in zip(updates, rule.learnt_from, strict=True)] == [
        25
    ] + 9 * [50]


def test_no_better_candidate_changes_nothing_and_is_counted():
    rule = Fixed(THROTTLED.as_array())
    adaptive = AdaptiveLatency(BASE, rule=rule)
    updates = feed(adaptive, rows_of(BASE, 500))
    assert {update.outcome for update in updates} == {"worse"}
    assert all(update.error_after > update.error_before for update in updates)
    assert adaptive.adapted == BASE
    assert adaptive.status()["updates_worse"] == len(updates) == rule.heard.count(False) > 0
    assert adaptive.health().failure_rate == 0


@pytest.mark.parametrize(
    "answer",
    [
        np.linalg.LinAlgError("singular"),
        ZeroDivisionError("by zero"),
        ValueError("no"),
        [np.nan] * 11,
        [12.0, 50.0, 0.01, 0, 1, 5, 0, 0, 0, 0, 64],
        [-1.0] * 11,
        [1.0, 2.0],
    ],
)
def test_a_failed_update_changes_nothing_and_is_counted_and_logged(answer, caplog):
    adaptive = AdaptiveLatency(BASE, rule=Fixed(answer))
    with caplog.at_level(logging.WARNING):
        updates = feed(adaptive, rows_of(BASE, 500))
    assert {update.outcome for update in updates} == {"failed"}
    assert adaptive.adapted == BASE
    assert adaptive.status()["updates_failed"] == len(updates) == len(caplog.records) > 0
    assert "update failures 1.000 is not below 0.05" in adaptive.health().complaints


def test_what_cannot_be_answered_any_better_leaves_an_open_drift_until_an_update_is_accepted():
    rule = Fixed(BASE.as_array())
    adaptive = AdaptiveLatency(BASE, rule=rule)
    updates = feed(adaptive, JUMP)
    assert [update.reason for update in updates][-5:] == ["drift"] * 5
    rule.answer = THROTTLED.as_array()
    assert [update.outcome for update in feed(adaptive, rows_of(THROTTLED, 25, 2))] == ["accepted"]
    assert "drift" not in {update.reason for update in feed(adaptive, rows_of(THROTTLED, 300, 3))}


def test_enough_observations_are_a_precondition_not_a_trigger():
    reason = Triggers(min_observations=30).reason
    assert reason(available=29, since_update=10**6, error=9.0, drifted=True) is None
    assert reason(available=10**6, since_update=0, error=0.0, drifted=False) is None


def test_drift_error_and_interval_are_triggers_in_this_order():
    reason = Triggers(interval=100, error_threshold=0.1).reason
    assert reason(available=500, since_update=100, error=0.2, drifted=True) == "drift"
    assert reason(available=500, since_update=100, error=0.2, drifted=False) == "error"
    assert reason(available=500, since_update=100, error=0.1, drifted=False) == "interval"
    assert reason(available=500, since_update=99, error=np.nan, drifted=False) is None


def test_a_stationary_stream_is_updated_once_in_an_interval():
    updates = feed(AdaptiveLatency(BASE, triggers=Triggers(interval=100)), rows_of(BASE, 1000))
    assert [(update.reason, update.observation) for update in updates] == [("interval", 100 * k) for k in range(1, 11)]


@pytest.mark.parametrize("setting", ["look_every", "min_observations", "interval", "error_threshold", "held_out"])
def test_triggers_outside_their_bounds_are_refused(setting):
    with pytest.raises(ValueError, match=setting):
        Triggers(**{setting: 0})


def test_parameters_outside_the_feasible_set_are_refused():
    with pytest.raises(ValueError, match="k_b is 50"):
        AdaptiveLatency(SaturationParameters(1.0, 50.0, 0.01))


@pytest.mark.parametrize("name", UPDATE_RULES)
def test_a_restored_model_goes_on_exactly_as_the_first_would_have(name):
    first, restored = AdaptiveLatency(BASE, rule=name), AdaptiveLatency(THROTTLED, rule=name)
    feed(first, JUMP[:1120])
    restored.load_state_dict(json.loads(json.dumps(first.state_dict())))
    assert feed(restored, JUMP[1120:]) == feed(first, JUMP[1120:]) != []
    assert restored.state_dict() == first.state_dict()
    assert restored.status() == first.status()


def test_a_wrong_state_is_refused_and_changes_nothing():
    adaptive = AdaptiveLatency(BASE)
    feed(adaptive, JUMP)
    before = adaptive.state_dict()
    other = AdaptiveLatency(BASE, rule="momentum").state_dict()
    wrong = [{}, other, {**before, "monitor": {}}, {**before, "stage": "all"}, {**before, "adapted": {"p_max": 1}}]
    for state in wrong:
        with pytest.raises(ValueError, match=r"saved|unknown|lack"):
            adaptive.load_state_dict(state)
        assert adaptive.state_dict() == before


def test_status_is_flat_and_plain():
    adaptive = AdaptiveLatency(BASE, monitor=Monitor(level=0.01))
    feed(adaptive, JUMP)
    status = json.loads(json.dumps(adaptive.status()))
    assert status["observations"] == len(JUMP)
    assert status["base_mean_error"] > status["mean_error"] > 0
    assert not any(isinstance(value, dict | list) for value in status.values())


def test_a_mild_change_is_followed_without_forgetting():
    adaptive, slower = AdaptiveLatency(BASE), BASE.scaled(1.03)
    feed(adaptive, np.concatenate([rows_of(BASE, 2000), rows_of(slower, 2500, 1)]))
    assert adaptive.status()["drifts"] >= 1
    assert adaptive.status()["regime_start"] == 0
    assert mean_error(adaptive.adapted, slower) < mean_error(BASE, slower)


def test_a_change_seen_at_low_load_only_does_not_spoil_predictions_of_high_load():
    # Cheap at one request, a parameter like tau_b is dear at sixty: what it costs is told by the steps of before.
    adaptive = AdaptiveLatency(BASE)
    feed(adaptive, rows_of(BASE, 2000))
    idle = rows_of(THROTTLED, 400, 1)
    idle[:, :2] = np.random.default_rng(2).integers(1, 3, (400, 1))
    idle[:, 2] = 500 * idle[:, 0]
    noise = np.exp(0.05 * np.random.default_rng(3).standard_normal(400))
    idle[:, 3] = THROTTLED.predict(*idle[:, :3].T) * noise
    feed(adaptive, idle)
    assert adaptive.status()["regime_start"] >= 1990
    assert np.mean(np.abs(adaptive.adapted.predict(*idle[:, :3].T) / idle[:, 3] - 1)) < 0.06
    assert mean_error(adaptive.adapted, THROTTLED) < mean_error(BASE, THROTTLED)
