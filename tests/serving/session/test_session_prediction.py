"""The time to first token that a session predicts for a request that came now."""

import math

import pytest
from session_scripts import Clock, Scripted

from batchpilot.core import Limits
from batchpilot.serving import TunerSession
from batchpilot.serving.session.prediction import MOST_NOTED, OnlineLine


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


def test_a_line_has_learned_the_same_however_often_it_was_asked():
    asked, left_alone = OnlineLine(20.0), OnlineLine(20.0)
    assert math.isnan(left_alone.predict(1.0))
    for k in range(2 * MOST_NOTED + 7):
        for line in (asked, left_alone):
            line.observe(k % 13, 3.0 + 0.7 * (k % 13) + 0.01 * k)
        asked.predict(k)
        assert asked.points == left_alone.points == k + 1
    assert asked.predict(5.0) == left_alone.predict(5.0) == pytest.approx(11.5, abs=0.5)
    assert asked.predict(9.0) == left_alone.predict(9.0) > asked.predict(5.0)
