"""Changes of the engine are found quickly; a stationary stream gives no alarm, and updates are no change."""

import json

import numpy as np
import pytest
from latency_streams import BASE, THROTTLED, rows_of

from batchpilot.latency.online import DriftDetector, History


def alarms(detector, rows, parameters=BASE, every=25, first=0):
    """All drifts found when looking at every so many observations, with the observation at which they were."""
    found = []
    for end in range(first + every, len(rows) + 1, every):
        start = max(0, end - 10_000)
        drift = detector.check(History(rows[start:end], start), parameters.as_array())
        if drift is not None:
            found.append((end, drift))
    return found


@pytest.mark.parametrize("seed", range(5))
def test_a_stationary_stream_gives_no_alarm(seed):
    assert alarms(DriftDetector(), rows_of(BASE, 10_000, seed)) == []


def test_testing_each_window_at_the_full_level_would_give_many():
    # What the spending is for: the same stream, every test at 0.05 against the same reference.
    detector, naive = DriftDetector(), 0
    rows = rows_of(BASE, 10_000)
    for end in range(1200, 10_001, 25):
        detector.tests = 0
        naive += detector.check(History(rows[:end]), BASE.as_array()) is not None
    assert naive > 0


@pytest.mark.parametrize("factor", [1 / 0.7, 0.7, 2.0])
@pytest.mark.parametrize("start", [400, 5000])
def test_a_jump_is_found_within_a_hundred_observations_and_placed_within_ten(factor, start):
    rows = np.concatenate([rows_of(BASE, start), rows_of(BASE.scaled(factor), 400, 1)])
    when, drift = alarms(DriftDetector(), rows)[0]
    assert start < when <= start + 100
    assert abs(drift.since - start) <= 10
    assert drift.severity > 2.0
    assert drift.distance > drift.threshold


def test_a_slight_change_is_found_by_the_large_window_and_is_not_severe():
    rows = np.concatenate([rows_of(BASE, 3000), rows_of(BASE.scaled(1.02), 2000, 1)])
    _, drift = alarms(DriftDetector(), rows)[0]
    assert drift.window == 1000
    assert drift.severity < 2.0


def test_wider_noise_alone_is_a_change():
    rows = np.concatenate([rows_of(BASE, 2000), rows_of(BASE, 1500, 1, noise=0.2)])
    assert alarms(DriftDetector(), rows)[0][0] > 2000


def test_after_an_alarm_the_present_is_the_reference():
    rows = np.concatenate([rows_of(BASE, 2000), rows_of(THROTTLED, 3000, 1)])
    assert len(alarms(DriftDetector(), rows)) == 1


def test_new_parameters_are_no_change_of_the_engine():
    detector, rows = DriftDetector(), rows_of(BASE, 4000)
    assert alarms(detector, rows[:2000], BASE) == []
    assert alarms(detector, rows, THROTTLED, first=2000) == []


def test_a_buffer_that_turned_over_between_two_looks_begins_a_new_reference():
    detector, rows = DriftDetector(), rows_of(BASE, 30_000)
    assert detector.check(History(rows[:300]), BASE.as_array()) is None
    assert detector.check(History(rows[20_000:], 20_000), BASE.as_array()) is None
    assert detector.state_dict()["anchor"] == 20_000


def test_a_restored_detector_goes_on_as_the_first_would_have():
    rows = np.concatenate([rows_of(BASE, 1500), rows_of(THROTTLED, 200, 1)])
    first, second = DriftDetector(), DriftDetector()
    alarms(first, rows[:1000])
    second.load_state_dict(json.loads(json.dumps(first.state_dict())))
    assert alarms(second, rows, first=1000) == alarms(first, rows, first=1000) != []


@pytest.mark.parametrize(
    "wrong", [{}, {"tests": "x", "anchor": 0, "reference": []}, {"tests": 0, "anchor": 0, "reference": [[1]]}]
)
def test_a_wrong_state_is_refused(wrong):
    with pytest.raises(ValueError, match="saved drift detector"):
        DriftDetector().load_state_dict(wrong)


@pytest.mark.parametrize("arguments", [{"window": 99}, {"level": 0.0}, {"level": 1.0}])
def test_settings_outside_their_bounds_are_refused(arguments):
    with pytest.raises(ValueError, match=next(iter(arguments))):
        DriftDetector(**arguments)
