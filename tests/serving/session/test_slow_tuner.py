"""A tuner that thinks for long holds nobody up: the last good limits stand until it has thought."""

from __future__ import annotations

import gc
import threading

import pytest
from adapter_tuners import Clock, ScriptedTuner

from batchpilot.core import Limits
from batchpilot.serving import TunerSession, make_tuner, rehearse
from batchpilot.serving.session import decisions
from batchpilot.tuners.probe import ProbeTuner


class Thoughtful(ScriptedTuner):
    """Thinks in `tell` until it is allowed to answer."""

    def __init__(self, *limits: Limits) -> None:
        super().__init__(*limits)
        self.may_answer = threading.Event()

    def tell(self, metrics):
        """Answer when allowed.

        Args:
            metrics: any window.
        """
        assert self.may_answer.wait(60.0)
        super().tell(metrics)


@pytest.fixture
def impatient(monkeypatch):
    monkeypatch.setattr(decisions, "LONGEST_TELL_S", 0.05)


@pytest.mark.usefixtures("impatient")
def test_the_last_good_limits_stand_while_a_tuner_thinks_for_long():
    clock, tuner = Clock(), Thoughtful(Limits(4), Limits(8))
    session = TunerSession(tuner, window_ms=100.0, clock=clock)
    for _ in range(3):
        clock.pass_ms(100.0)
        session.tick()
    assert session.limits() == Limits(4)
    status = session.status()
    assert (status["tells_late"], status["windows_untold"]) == (1, 2)
    tuner.may_answer.set()
    assert session.settle(60.0)
    session.tick()
    assert session.limits() == Limits(8)


def test_a_quick_tuner_is_waited_for():
    clock, tuner = Clock(), ScriptedTuner(Limits(4), Limits(8))
    session = TunerSession(tuner, window_ms=100.0, clock=clock)
    clock.pass_ms(100.0)
    session.tick()
    assert session.limits() == Limits(8)
    assert session.status()["tells_late"] == 0


def thinking():
    """How many threads of tuners there are."""
    return sum(thread.name == "batchpilot-tuner" for thread in threading.enumerate())


@pytest.mark.parametrize("ending", ["closed", "dropped", "rehearsed"])
def test_no_thread_is_left_of_a_session_that_is_over(ending):
    gc.collect()
    before = thinking()
    if ending == "rehearsed":
        rehearse(make_tuner("guarded-adaptive"))
    else:
        clock = Clock()
        session = TunerSession(ScriptedTuner(Limits(4)), window_ms=100.0, clock=clock)
        clock.pass_ms(100.0)
        session.tick()
        assert thinking() == before + 1
        if ending == "closed":
            session.close()
            clock.pass_ms(100.0)
            session.tick()
            assert session.status()["windows_untold"] == 1
        del session
        gc.collect()
    over = threading.Event()
    for _ in range(200):
        if thinking() <= before:
            break
        over.wait(0.02)
    assert thinking() == before


def test_a_tuner_whose_class_says_that_it_is_quick_needs_no_thread():
    clock = Clock()
    session = TunerSession(make_tuner("hybrid"), window_ms=100.0, clock=clock)
    before = threading.active_count()
    for _ in range(3):
        clock.pass_ms(100.0)
        session.tick()
    assert threading.active_count() == before
    assert session.status()["windows_heard"] == 3


@pytest.mark.usefixtures("impatient")
def test_what_is_derived_from_a_quick_tuner_is_not_believed_to_be_quick():
    class Pondering(ProbeTuner):
        may_answer = threading.Event()

        def tell(self, metrics):
            assert self.may_answer.wait(60.0)
            super().tell(metrics)

    clock = Clock()
    session = TunerSession(Pondering(), window_ms=100.0, clock=clock)
    clock.pass_ms(100.0)
    session.tick()
    assert session.status()["tells_late"] == 1
    Pondering.may_answer.set()
    assert session.settle(60.0)


@pytest.mark.usefixtures("impatient")
def test_nor_is_a_quick_tuner_whose_tell_was_replaced():
    clock, tuner, may_answer = Clock(), make_tuner("hybrid"), threading.Event()
    tuner.tell = lambda metrics: may_answer.wait(60.0)
    session = TunerSession(tuner, window_ms=100.0, clock=clock)
    clock.pass_ms(100.0)
    session.tick()
    assert session.status()["tells_late"] == 1
    may_answer.set()
    assert session.settle(60.0)
