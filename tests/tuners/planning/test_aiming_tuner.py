"""The guarded default whose step target follows the TPOT that requests have."""

import json
import math

import pytest
from hypothesis import given
from hypothesis import strategies as st

from batchpilot.baselines import GuardedTuner
from batchpilot.baselines.guarded import STEP_TARGET_SHARE
from batchpilot.core import SLO, Limits, WindowMetrics
from batchpilot.tuners.planning.aiming import AIM, FEWEST_COMPLETIONS, LOWEST_SHARE, AimingTuner

PROMISE = SLO(1000.0, 40.0)


def a_window(**values):
    return WindowMetrics(limits=Limits(256), start_ms=0.0, duration_ms=1000.0, steps=20, **values)


def share_after(tuner, tpot_ms_p95, windows, completions=50):
    for _ in range(windows):
        tuner.tell(a_window(tpot_ms_p95=tpot_ms_p95, tpot_target_ms=40.0, completions=completions))
    return tuner.ask().step_target_ms / 40.0


def test_it_begins_as_the_guarded_default_with_its_step_target_just_below_the_promise():
    expected = GuardedTuner(PROMISE).ask().replace(step_target_ms=STEP_TARGET_SHARE * 40.0)
    assert AimingTuner(PROMISE).ask() == expected


def test_requests_slower_than_their_promise_lower_the_step_target_until_they_keep_it():
    tuner, share = AimingTuner(PROMISE), STEP_TARGET_SHARE
    for _ in range(60):
        # An engine on which the slowest requests have a fifth more than the step target.
        share = share_after(tuner, 1.2 * 40.0 * share, 1)
    assert 1.2 * share == pytest.approx(AIM, rel=0.01)


def test_requests_with_time_to_spare_bring_it_back_up_and_no_further_than_where_it_began():
    tuner = AimingTuner(PROMISE)
    assert share_after(tuner, 60.0, 3) < STEP_TARGET_SHARE
    assert share_after(tuner, 20.0, 50) == pytest.approx(STEP_TARGET_SHARE)


def test_a_promise_that_no_step_can_keep_does_not_drive_it_below_its_bound():
    assert share_after(AimingTuner(PROMISE), 4000.0, 100) == pytest.approx(LOWEST_SHARE)


@pytest.mark.parametrize(("tpot_ms_p95", "completions"), [(math.nan, 50), (80.0, FEWEST_COMPLETIONS - 1), (0.0, 50)])
def test_windows_that_say_nothing_of_tpot_change_nothing(tpot_ms_p95, completions):
    assert share_after(AimingTuner(PROMISE), tpot_ms_p95, 5, completions) == STEP_TARGET_SHARE


def test_without_a_promise_it_takes_that_of_the_windows():
    tuner = AimingTuner()
    assert tuner.ask().step_target_ms is None
    tuner.tell(a_window(tpot_target_ms=50.0, completions=0))
    assert tuner.ask().step_target_ms == pytest.approx(STEP_TARGET_SHARE * 50.0)


@given(st.lists(st.floats(1.0, 500.0), max_size=30))
def test_a_saved_tuner_goes_on_where_it_was(tpots):
    tuner, other = AimingTuner(PROMISE), AimingTuner(PROMISE)
    for tpot_ms in tpots:
        tuner.tell(a_window(tpot_ms_p95=tpot_ms, tpot_target_ms=40.0, completions=50))
    other.load_state_dict(json.loads(json.dumps(tuner.state_dict())))
    assert other.ask() == tuner.ask()
    assert LOWEST_SHARE * 40.0 <= other.ask().step_target_ms <= 40.0
    tuner.reset()
    assert tuner.ask() == AimingTuner(PROMISE).ask()


@pytest.mark.parametrize(
    ("change", "complaint"),
    [
        ({"tuner": "dynamic"}, "state of 'dynamic'"),
        ({"share": 2.0}, "share is 2.0"),
        ({"share": None}, "incomplete"),
        ({"guarded": {}}, "state of None"),
    ],
)
def test_a_wrong_state_is_refused_and_changes_nothing(change, complaint):
    tuner = AimingTuner(PROMISE)
    before = tuner.ask()
    with pytest.raises(ValueError, match=complaint):
        tuner.load_state_dict(tuner.state_dict() | change)
    assert tuner.ask() == before
