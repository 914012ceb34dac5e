"""Which changes of the arrival rate count as a change of load."""

import numpy as np

from batchpilot.tuners.probe.load import LoadTracker


def windows_until_change(before, after) -> int | None:
    tracker = LoadTracker()
    for arrivals in before:
        assert not tracker.changed(arrivals, 1000.0, 0.3)
    for heard, arrivals in enumerate(after, start=1):
        if tracker.changed(arrivals, 1000.0, 0.3):
            return heard
    return None


def test_a_steady_load_never_changes():
    assert windows_until_change([20.0] * 20, [20.0] * 100) is None


def test_a_doubled_load_is_noticed_within_ten_windows():
    heard = windows_until_change([20.0] * 20, [40.0] * 10)
    assert heard is not None
    assert heard < 10


def test_a_vanished_load_is_noticed_within_ten_windows():
    heard = windows_until_change([20.0] * 20, [0.0] * 10)
    assert heard is not None
    assert heard < 10


def test_a_change_below_the_threshold_is_none():
    assert windows_until_change([1000.0] * 20, [1250.0] * 50) is None


def test_the_clumps_of_a_slow_poisson_stream_are_no_change():
    rng = np.random.default_rng(1)
    false_alarms = 0
    for _ in range(50):
        tracker = LoadTracker()
        false_alarms += any(tracker.changed(float(rng.poisson(2)), 1000.0, 0.3) for _ in range(100))
    assert false_alarms <= 5


def test_after_rebase_the_new_load_is_the_reference():
    tracker = LoadTracker()
    for arrivals in [20.0] * 20 + [60.0] * 3:
        tracker.changed(arrivals, 1000.0, 0.3)
    tracker.rebase()
    assert not any(tracker.changed(60.0, 1000.0, 0.3) for _ in range(30))


def test_a_saved_tracker_goes_on():
    tracker = LoadTracker()
    for _ in range(20):
        tracker.changed(20.0, 1000.0, 0.3)
    copy = LoadTracker()
    copy.load_state_dict(tracker.state_dict())
    assert [copy.changed(40.0, 1000.0, 0.3) for _ in range(6)] == [tracker.changed(40.0, 1000.0, 0.3) for _ in range(6)]
