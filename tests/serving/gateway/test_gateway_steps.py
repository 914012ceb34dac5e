"""The steps of a server, seen in the tokens that pass a gateway."""

import pytest

from batchpilot.serving.gateway.steps import StepWatcher


def test_steps_show_in_the_tokens():
    watcher = StepWatcher()
    watcher.sent("a", 100, now_ms=0.0)
    assert watcher.spoke("a", 1, first=True, now_ms=30.0) is None
    watcher.sent("b", 50, now_ms=31.0)
    first = watcher.spoke("a", 1, first=False, now_ms=50.0)
    assert (first.batch_size, first.tokens, first.context_tokens, first.duration_ms) == (1, 100, 0, 30.0)
    assert watcher.spoke("b", 1, first=True, now_ms=50.5) is None
    second = watcher.spoke("b", 1, first=False, now_ms=70.0)
    assert (second.batch_size, second.tokens, second.context_tokens, second.duration_ms) == (2, 51, 101, 20.5)
    assert watcher.ended("a") is None
    assert watcher.ended("b").batch_size == 1


@pytest.mark.parametrize("held", [1, 4, 10])
def test_steps_are_paced_by_the_token_however_many_come_at_once(held):
    watcher, seen = StepWatcher(), []
    for name in "ab":
        watcher.sent(name, 100, now_ms=0.0)
    for turn in range(20):
        for name in "ab":
            tokens = held if turn else 1
            seen.append(watcher.spoke(name, tokens, first=not turn, now_ms=20.0 * held * turn + 30.0))
    steps = [step for step in seen if step is not None][1:]
    assert [(step.batch_size, step.tokens, step.duration_ms) for step in steps] == [(2, 2, 20.0)] * 18


def test_a_step_of_several_texts_is_one_step():
    watcher = StepWatcher()
    watcher.sent("a", 10, now_ms=0.0, texts=3)
    seen = [watcher.spoke("a", 1, first=not turn, now_ms=20.0 * turn) for turn in range(4) for _ in range(3)]
    assert [(step.batch_size, step.duration_ms) for step in seen if step is not None] == [
        (3, 0.0),
        (3, 20.0),
        (3, 20.0),
    ]


def test_answers_that_do_not_stream_take_part_in_the_steps_of_those_that_do():
    watcher = StepWatcher()
    watcher.sent("whole", 50, now_ms=0.0, streams=False)
    watcher.sent("a", 10, now_ms=0.0)
    watcher.spoke("a", 1, first=True, now_ms=20.0)
    watcher.spoke("a", 1, first=False, now_ms=40.0)
    step = watcher.spoke("a", 1, first=False, now_ms=60.0)
    assert (step.batch_size, step.tokens, step.context_tokens) == (2, 2, 61)
