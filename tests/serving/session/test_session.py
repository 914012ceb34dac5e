"""A tuner at work in a session: when its limits come into force, and what happens when it misbehaves."""

import asyncio
import runpy
import threading
from pathlib import Path

import pytest
from session_scripts import Clock, Scripted

from batchpilot.core import Limits
from batchpilot.serving import TunerSession, make_tuner


def test_limits_change_at_the_end_of_a_step_and_never_within_a_window():
    clock, tuner = Clock(), Scripted(Limits(1), Limits(2), Limits(3))
    session = TunerSession(tuner, window_ms=100.0, clock=clock)
    for _ in range(9):
        clock.ms += 30.0
        session.on_step(1, 1, 0, 30.0)
    assert [window.limits for window in tuner.heard] == [Limits(1), Limits(2)]
    assert [window.duration_ms for window in tuner.heard] == pytest.approx([120.0, 120.0])
    assert session.limits() == Limits(3)
    assert [decision.reason for decision in session.decisions] == ["after 1 windows", "after 2 windows"]


def test_a_tuner_that_raises_leaves_the_last_good_limits_in_force():
    clock, tuner = Clock(), Scripted(Limits(4), Limits(5), Limits(6), raises=(2,))
    session = TunerSession(tuner, window_ms=10.0, clock=clock)
    for _ in range(2):
        clock.ms += 10.0
        session.tick()
    status = session.status()
    assert status["tuner_errors"] == 1
    assert status["tuner_last_error"] == "RuntimeError: a bug in the tuner"
    assert session.limits() == Limits(6)


@pytest.mark.parametrize("answer", [None, 8, "8"])
def test_an_answer_that_is_no_limits_is_an_error_of_the_tuner(answer):
    clock = Clock()
    session = TunerSession(Scripted(Limits(4), answer), window_ms=10.0, clock=clock)
    clock.ms = 10.0
    session.tick()
    assert session.limits() == Limits(4)
    assert "which is no Limits" in session.status()["tuner_last_error"]


def test_a_tuner_that_cannot_even_be_asked_leaves_a_size_to_start_with():
    session = TunerSession(Scripted(None))
    assert session.limits() == Limits(8)


def test_a_background_tuner_holds_nothing_up_and_decides_between_steps():
    gate, clock = threading.Event(), Clock()
    tuner = Scripted(Limits(1), Limits(2), gate=gate)
    with TunerSession(tuner, window_ms=100.0, clock=clock, background=True) as session:
        clock.ms = 100.0
        session.on_step(1, 1, 0, 100.0)
        clock.ms = 250.0
        session.on_arrival("late", 10)
        session.on_step(1, 1, 0, 150.0)
        assert (session.limits(), session.status()["windows_untold"]) == (Limits(1), 1)
        gate.set()
        assert session.settle()
        assert session.limits() == Limits(1)
        clock.ms = 260.0
        session.on_step(1, 1, 0, 10.0)
        assert session.limits() == Limits(2)
        clock.ms = 360.0
        session.on_step(1, 1, 0, 100.0)
        assert session.settle()
    assert [window.limits for window in tuner.heard] == [Limits(1), Limits(2)]
    assert tuner.heard[1].start_ms == pytest.approx(260.0)
    assert len(tuner.studied[1].arrivals) == 1


def test_a_command_reaches_the_tuner_and_its_wish_comes_into_force():
    session = TunerSession(make_tuner("hybrid"))
    assert session.command(lambda tuner: tuner.set_batch_size(24)) is None
    assert session.limits().batch_size == 24
    with pytest.raises(ValueError, match="batch_size"):
        session.command(lambda tuner: tuner.set_batch_size(0))
    assert (session.limits().batch_size, session.status()["tuner_errors"]) == (24, 0)


def test_a_decision_of_a_tuner_that_was_replaced_meanwhile_is_dropped():
    gate, clock = threading.Event(), Clock()
    slow, new = Scripted(Limits(1), Limits(2), gate=gate), Scripted(Limits(7))
    with TunerSession(slow, window_ms=100.0, clock=clock, background=True) as session:
        clock.ms = 100.0
        session.tick()
        assert session.switch(new) is slow
        gate.set()
        assert session.settle()
        session.tick()
        assert (session.limits(), session.tuner) == (Limits(7), new)


def test_the_example_server_follows_its_tuner():
    path = Path(__file__).parents[3] / "examples/tuner_session.py"
    example = runpy.run_path(str(path))
    session = asyncio.run(example["main"](requests=150))
    status = session.status()
    assert (status["odd_events"], status["running"], status["waiting"]) == (0, 0, 0)
    assert status["windows"] > 0
    assert session.limits().batch_size > 8
