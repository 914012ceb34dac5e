"""The ring buffer keeps the newest believable observations, in order, whatever it is given."""

import json
import math
import threading

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from batchpilot.latency.online import ObservationBuffer

ANYTHING = st.one_of(
    st.floats(allow_nan=True, allow_infinity=True),
    st.integers(-(10**400), 10**400),
    st.sampled_from([None, "12", "many", b"", [1.0], {}, 1j, np.float32(3), np.arange(3)]),
)


def filled(capacity, count):
    buffer = ObservationBuffer(capacity)
    for number in range(count):
        buffer.record(1, 1, number, 1.0)
    return buffer


@pytest.mark.parametrize("count", [0, 1, 6, 7, 8, 14, 20])
def test_the_newest_observations_are_kept_in_order(count):
    history = filled(7, count).history()
    kept = min(count, 7)
    assert history.rows[:, 2].tolist() == list(range(count - kept, count))
    assert (history.first, history.end, len(history)) == (count - kept, count, kept)


@pytest.mark.parametrize("count", [0, 1, 6, 7, 8, 14, 20])
@pytest.mark.parametrize("newest", [0, 1, 3, 7, 50])
def test_the_last_few_are_the_end_of_what_is_kept(count, newest):
    buffer = filled(7, count)
    some, kept = buffer.history(newest), buffer.history().newest(newest)
    assert some.rows.tolist() == kept.rows.tolist()
    assert (some.first, some.end) == (kept.first, kept.end)


def test_a_history_does_not_change_when_more_is_recorded():
    buffer = filled(5, 5)
    history = buffer.history()
    buffer.record(9, 9, 9, 9.0)
    assert history.rows[:, 2].tolist() == [0, 1, 2, 3, 4]


def test_stretches_are_cut_by_number_and_never_reach_beyond_what_is_kept():
    history = filled(5, 12).history()
    assert history.since(9).rows[:, 2].tolist() == [9, 10, 11]
    assert history.until(9).rows[:, 2].tolist() == [7, 8]
    assert history.newest(2).first == 10
    assert len(history.newest(100)) == len(history.since(-3)) == 5
    assert len(history.since(50)) == len(history.until(0)) == 0


@pytest.mark.parametrize(
    "absurd",
    [
        (math.nan, 1, 0, 5.0),
        (1, math.inf, 0, 5.0),
        (0, 1, 0, 5.0),
        (1, 0.5, 0, 5.0),
        (1, 1, -1, 5.0),
        (1, 1, 0, math.nan),
        (1, 1, 0, -5.0),
        (1, 1, 0, 0.1),
        (1, 1, 0, 60_000.0),
        (1e12, 1, 0, 5.0),
        (None, 1, 0, 5.0),
        (10**400, 1, 0, 5.0),
    ],
)
def test_what_cannot_be_a_step_is_counted_and_dropped(absurd):
    buffer = ObservationBuffer()
    assert not buffer.record(*absurd)
    assert (buffer.count, buffer.dropped) == (0, 1)


@given(st.lists(st.tuples(ANYTHING, ANYTHING, ANYTHING, ANYTHING), max_size=30))
def test_whatever_is_recorded_the_buffer_holds_finite_steps_and_counts_the_rest(observations):
    buffer = ObservationBuffer(8)
    accepted = sum(buffer.record(*observation) for observation in observations)
    rows = buffer.history().rows
    assert (buffer.count, buffer.dropped) == (accepted, len(observations) - accepted)
    assert np.all(np.isfinite(rows) & (rows >= 0))
    assert np.all(rows[:, :2] >= 1)


def test_threads_recording_together_lose_nothing_and_mix_no_rows():
    buffer = ObservationBuffer(4000)

    def record(value):
        for _ in range(1000):
            buffer.record(value, value, value, value)

    threads = [threading.Thread(target=record, args=(value,)) for value in (1.0, 2.0, 3.0, 4.0)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    rows = buffer.history().rows
    assert len(rows) == 4000
    assert np.all(rows == rows[:, :1])
    assert np.unique(rows[:, 0], return_counts=True)[1].tolist() == [1000] * 4


@pytest.mark.parametrize("capacity", [3, 7, 20])
def test_a_saved_buffer_goes_on_in_one_of_another_size(capacity):
    saved = json.loads(json.dumps(filled(7, 12).state_dict()))
    restored = ObservationBuffer(capacity)
    restored.load_state_dict(saved)
    restored.record(1, 1, 12, 1.0)
    kept = min(capacity, 8)
    assert restored.history().rows[:, 2].tolist() == list(range(13 - kept, 13))


@pytest.mark.parametrize(
    "wrong", [{}, {"rows": [[1, 2]], "count": 1, "dropped": 0}, {"rows": [[1.0] * 4], "count": 0, "dropped": 0}]
)
def test_a_wrong_state_is_refused_and_changes_nothing(wrong):
    buffer = filled(7, 3)
    with pytest.raises(ValueError, match="saved observation buffer"):
        buffer.load_state_dict(wrong)
    assert buffer.history().rows[:, 2].tolist() == [0, 1, 2]


@pytest.mark.parametrize("arguments", [(0,), (5, -1.0), (5, 3.0, 2.0)])
def test_a_buffer_that_could_keep_nothing_is_refused(arguments):
    with pytest.raises(ValueError, match=r"capacity|bounds"):
        ObservationBuffer(*arguments)
