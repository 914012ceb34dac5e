"""The time to first token that a session predicts for a request that came now."""

import math

import pytest
from session_scripts import Clock, Scripted

from batchpilot.core import Limits
from batchpilot.serving import TunerSession
from batchpilot.serving.session.prediction import MOST_NOTED


def test_ttft_is_predicted_from_steps_and_the_prompts_before():
    clock = Clock()
    session = TunerSession(Scripted(Limits(64, token_budget=512)), clock=clock)
    assert math.isnan(session.predicted_ttft_ms(100))
    for tokens in (16, 512, 64, 512, 128, 300):
        clock.ms += 10.0 + 0.1 * tokens
        session.on_step(4, tokens, 0, 10.0 + 0.1 * tokens)
    assert session.predicted_ttft_ms(100) == pytest.approx(20.0, rel=0.01)
    session.on_arrival("ahead", 924)
    assert session.predicted_ttft_ms(100) == pytest.approx(2 * 61.2, rel=0.01)


def test_ttft_is_predicted_from_requests_where_no_steps_are_told():
    clock = Clock()
    session = TunerSession(Scripted(Limits(64)), clock=clock)
    for k, prompt in enumerate((100, 400, 200, 800)):
        session.on_arrival(k, prompt)
        clock.ms += 30.0 + 0.5 * prompt
        session.on_first_token(k)
        session.on_finish(k)
    assert session.predicted_ttft_ms(600) == pytest.approx(330.0, rel=0.01)


def test_a_full_batch_adds_the_wait_for_a_place():
    clock = Clock()
    session = TunerSession(Scripted(Limits(2, token_budget=64)), clock=clock)
    for k in range(8):
        session.on_arrival(k, 10)
    for k in range(6):
        session.on_tokens(k)
        clock.ms += 100.0
        session.on_step(2, 12, 0, 10.0)
        session.on_finish(k)
    session.on_start(6)
    session.on_start(7)
    assert session.predicted_ttft_ms(10) >= 100.0


@pytest.mark.parametrize("told_steps", [True, False])
def test_what_is_predicted_does_not_hang_on_how_often_it_was_asked(told_steps):
    clocks = Clock(), Clock()
    asked, left_alone = (TunerSession(Scripted(Limits(4, token_budget=512)), clock=clock) for clock in clocks)
    for k in range(2 * MOST_NOTED + 7):
        prompt = 100 + 37 * (k % 13)
        for session, clock in zip((asked, left_alone), clocks, strict=True):
            session.on_arrival(k, prompt)
            clock.ms += 30.0 + 0.5 * prompt + 0.01 * k
            session.on_tokens(k)
            if told_steps:
                session.on_step(1, prompt, 0, 20.0 + 0.5 * prompt + 0.01 * k)
            session.on_finish(k)
        asked.predicted_ttft_ms(300)
    expected = 176.0 if told_steps else 184.0
    assert asked.predicted_ttft_ms(300) == left_alone.predicted_ttft_ms(300) == pytest.approx(expected, rel=0.02)


@pytest.mark.parametrize("step", [(4, 100, 0, math.nan), (4, 100, 0, -5.0), (4, 100, 0, math.inf), (-1, 100, 0, 1e6)])
def test_a_step_that_makes_no_sense_teaches_nothing(step):
    clock = Clock()
    session, other = (TunerSession(Scripted(Limits(64, token_budget=512)), clock=clock) for _ in range(2))
    for tokens in (16, 512, 64, 512, 128, 300):
        clock.ms += 10.0 + 0.1 * tokens
        for one in (session, other):
            one.on_step(4, tokens, 0, 10.0 + 0.1 * tokens)
    session.on_step(*step)
    assert session.status()["odd_events"] == 1
    assert session.predicted_ttft_ms(100) == other.predicted_ttft_ms(100) > 0.0
