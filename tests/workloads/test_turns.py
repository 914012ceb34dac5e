"""Turns of conversations in a request table: who follows whom, whatever is done to the table."""

import numpy as np
import pytest

from batchpilot import RequestTable
from batchpilot.workloads import concatenate
from batchpilot.workloads.turns import ALONE, LAST, Turns


def table(session, arrival_ms=None, think_ms=5.0):
    n = len(session)
    arrival_ms = np.arange(n) * 10.0 if arrival_ms is None else arrival_ms
    turns = Turns(np.array(session), np.broadcast_to(np.asarray(think_ms, float), (n,)).copy())
    return RequestTable.from_arrays(arrival_ms, 100 + np.arange(n), 10, turns=turns)


def test_a_turn_follows_the_one_before_of_its_conversation_and_a_lone_request_nobody():
    turns = table([3, ALONE, 3, 0, 3, ALONE]).turns
    assert turns.following().tolist() == [2, LAST, 4, LAST, LAST, LAST]
    assert turns.first().tolist() == [True, True, False, True, False, True]
    assert turns.first_of().tolist() == [0, 1, 0, 3, 0, 5]


def test_requests_that_are_sorted_by_arrival_keep_their_conversations():
    turns = table([0, 1, 0, 1], [30.0, 0.0, 40.0, 20.0]).turns
    assert turns.session.tolist() == [1, 1, 0, 0]


def test_the_first_turn_that_is_left_waits_for_no_answer():
    later = table([0, 0, 1, 0, 1]).window(10.0, 100.0)
    assert later.turns.first().tolist() == [True, True, False, False]


def test_tables_put_together_and_periods_of_a_loop_have_no_conversation_in_common():
    both = concatenate([table([0, 0]), RequestTable.from_arrays([1.0], 5, 5), table([0, 0])])
    assert (both.turns.following() != LAST).sum() == 2
    looped = table([0, 0, 0]).loop(90.0)
    assert len(looped) == 9
    assert looped.turns.first().sum() == 3


@pytest.mark.parametrize(
    ("session", "think_ms", "message"),
    [
        ([0, 0], [0.0, -1.0], "think_ms of request 1 is -1; it must be >= 0 ms"),
        ([0, 0], [0.0, np.nan], "think_ms of request 1 is nan"),
        ([0, 0, 1], [0.0, 1.0], r"session has shape \(3,\), think_ms \(2,\)"),
    ],
)
def test_turns_that_cannot_be_are_refused(session, think_ms, message):
    with pytest.raises(ValueError, match=message):
        Turns(np.array(session), np.array(think_ms))


def test_conversations_are_no_closed_loop_too_and_are_those_of_all_requests():
    turns = Turns(np.zeros(2, np.int64), np.zeros(2))
    with pytest.raises(ValueError, match="conversations already wait for their answers"):
        RequestTable.from_arrays([0.0, 1.0], 1, 1, concurrency=2, turns=turns)
    with pytest.raises(ValueError, match="conversations of 2 requests; there must be of all 3"):
        RequestTable.from_arrays([0.0, 1.0, 2.0], 1, 1, turns=turns)
