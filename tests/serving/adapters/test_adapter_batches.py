"""Batching functions speak to a session in calls and batches."""

import math

import pytest
from adapter_tuners import Clock, ScriptedTuner

from batchpilot.core import SLO, Limits
from batchpilot.serving.adapters.batches import BatchReports, batch_session
from batchpilot.serving.session.session import TunerSession


def reports_of(*limits, then_raises=False, slo=None):
    """Reports to a session with a clock of its own; windows of 100 ms."""
    clock, tuner = Clock(), ScriptedTuner(*(limits or (Limits(4),)), then_raises=then_raises)
    session = TunerSession(tuner, window_ms=100.0, clock=clock)
    return BatchReports(session, slo or SLO(ttft_ms=50.0)), clock, tuner


def run_batch(reports, clock, calls, duration_ms, *, end="answered", waited_ms=0.0):
    """Some calls in one batch."""
    for call in calls:
        reports.arrived(call, waited_ms=waited_ms)
    reports.started(calls)
    clock.pass_ms(duration_ms)
    for call in calls:
        getattr(reports, end)(call)
    reports.ended(len(calls), len(calls), duration_ms, failed=end == "failed")


def test_a_batch_is_a_step_and_a_call_a_request_of_one_token():
    reports, clock, tuner = reports_of()
    for start in range(0, 20, 4):
        run_batch(reports, clock, range(start, start + 4), 20.0)
    (window,) = tuner.heard
    assert (window.completions, window.generated_tokens) == (20, 20)
    assert window.throughput_tokens_per_s == pytest.approx(200.0)
    assert window.ttft_ms_p50 == pytest.approx(20.0)
    assert math.isnan(window.tpot_ms_p50)
    assert window.slo_attainment == 1.0


def test_time_waited_before_the_worker_saw_a_call_counts_against_the_promise():
    reports, clock, tuner = reports_of(slo=SLO(ttft_ms=50.0))
    run_batch(reports, clock, ["late"], 20.0, waited_ms=40.0)
    run_batch(reports, clock, ["in time"], 20.0, waited_ms=20.0)
    run_batch(reports, clock, [], 60.0)
    assert tuner.heard[0].slo_attainment == 0.5
    assert tuner.heard[0].ttft_ms_p99 == pytest.approx(60.0, rel=0.1)


def test_limits_change_between_batches():
    reports, clock, _ = reports_of(Limits(4), Limits(8, max_wait_ms=5.0))
    assert reports.limits() == Limits(4)
    run_batch(reports, clock, ["a"], 120.0)
    assert reports.limits() == Limits(8, max_wait_ms=5.0)


def test_a_tuner_that_raises_leaves_the_last_limits_in_force():
    reports, clock, _ = reports_of(Limits(4), Limits(8), then_raises=True)
    for number in range(5):
        run_batch(reports, clock, [number], 120.0)
    assert reports.limits() == Limits(8)
    assert reports.session.status()["tuner_errors"] == 4


def test_a_failed_batch_is_a_failed_step_and_its_calls_failed_requests():
    reports, clock, tuner = reports_of()
    run_batch(reports, clock, ["first"], 10.0)
    run_batch(reports, clock, ["a", "b"], 120.0, end="failed")
    assert (tuner.heard[0].failures, tuner.heard[0].failed_requests) == (1, 2)


def test_a_call_ends_once():
    reports, clock, tuner = reports_of()
    reports.arrived("a")
    reports.started(["a"])
    reports.cancelled("a")
    reports.answered("a")
    reports.failed("a")
    clock.pass_ms(120.0)
    reports.ended(1, 1, 120.0)
    assert (tuner.heard[0].completions, tuner.heard[0].failed_requests) == (0, 0)
    assert (reports.session.running, reports.session.waiting) == (0, 0)
    assert reports.session.status()["odd_events"] == 0


def test_the_window_after_idle_time_begins_with_the_next_call():
    reports, clock, tuner = reports_of()
    run_batch(reports, clock, ["first"], 10.0)
    clock.pass_ms(10_000.0)
    run_batch(reports, clock, ["a"], 100.0)
    idle, busy = tuner.heard
    assert (idle.completions, busy.completions) == (1, 1)
    assert busy.duration_ms == pytest.approx(100.0)


def test_batch_session_makes_any_tuner():
    assert batch_session("static-8").limits().batch_size == 8
    with pytest.raises(ValueError, match="did you mean 'hybrid'"):
        batch_session("hybrit")
