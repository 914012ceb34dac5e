"""What limits mean at one step of somebody else's scheduler."""

import math

import numpy as np
import pytest
from adapter_tuners import Clock, ScriptedTuner
from hypothesis import given
from hypothesis import strategies as st

from batchpilot.core import Limits
from batchpilot.latency.fitting.measurement_files import read_measurements
from batchpilot.serving.adapters.step_control import StepControl
from batchpilot.serving.adapters.step_model import StepModel
from batchpilot.serving.recording import StepRecorder
from batchpilot.serving.session.session import TunerSession

TURN = {"running": 0, "context_tokens": 0, "budget": 512}


def control_of(*limits, most_requests=16, most_tokens=512, then_raises=False):
    """A control with a clock of its own; windows of 100 ms."""
    clock = Clock()
    session = TunerSession(ScriptedTuner(*limits, then_raises=then_raises), window_ms=100.0, clock=clock)
    return StepControl(session, most_requests, most_tokens), clock


def teach(control, clock, steps=20):
    """Steps of 5 ms and 20 us a token."""
    for number in range(steps):
        tokens = 64 + 64 * (number % 4)
        clock.pass_ms(5 + 0.02 * tokens)
        hear(control, tokens=tokens, duration_ms=5 + 0.02 * tokens)


def hear(control, **changes):
    """A step without requests' events."""
    plain = {"batch_size": 4, "tokens": 4, "context_tokens": 0, "duration_ms": 5.0, "kv_used_fraction": 0.0}
    nothing = {"prefills": [], "preempted": [], "emitted": {}, "finished": []}
    control.hear_step(**{**plain, **nothing, **changes})


def test_limits_stop_at_what_the_server_was_started_with():
    control, _ = control_of(Limits(256, 4096))
    assert control.active_requests() == 16
    assert control.token_budget(4, 3, 1000) == 512


def test_limits_below_that_apply():
    control, _ = control_of(Limits(6, 200))
    assert control.active_requests() == 6
    assert control.token_budget(4, 3, 1000) == 200


def test_a_budget_never_starves_requests_that_run():
    control, _ = control_of(Limits(16, 4))
    assert control.token_budget(12, 12, 1000) == 12


def test_a_step_target_changes_nothing_while_no_step_was_seen():
    control, _ = control_of(Limits(16, step_target_ms=7.0))
    assert control.token_budget(4, 3, 1000) == 512


def test_a_step_target_cuts_the_budget_to_what_fits():
    control, clock = control_of(Limits(16, step_target_ms=9.0))
    teach(control, clock)
    assert control.token_budget(4, 3, 1000) == pytest.approx(200, abs=1)


def test_queued_tokens_refuse_who_comes_while_they_are_reached():
    control, _ = control_of(Limits(16, max_queued_tokens=500))
    assert not control.refuses_arrival()  # an engine without prompts takes any
    control.session.on_arrival("a", 499)
    assert not control.refuses_arrival()
    control.session.on_arrival("b", 1)
    assert control.refuses_arrival()
    control.session.on_start("a")
    assert control.refuses_arrival()  # until its first token a prompt counts whole
    control.session.on_first_token("a")
    assert not control.refuses_arrival()


def test_a_waiting_request_is_refused_once_it_is_hopeless_whatever_is_before_it():
    control, clock = control_of(Limits(16, ttft_guard=1.0))
    teach(control, clock)
    assert control.hopeless() == []
    control.hear_waiting("long", 1000, 100.0, 0.0)  # 25 ms at best
    control.hear_waiting("short", 10, 100.0, 0.0)
    control.hear_waiting("begun", 10, 100.0, 0.0)
    control.hear_begun("begun")
    clock.pass_ms(70.0)
    assert control.hopeless() == []
    clock.pass_ms(8.0)
    assert control.hopeless() == ["long"]
    assert control.hopeless(4, 100, 0) == []
    clock.pass_ms(13.0)
    assert control.hopeless() == []
    assert control.hopeless(4, 100, 0) == ["short"]  # after a step of 7 ms it will be


def test_a_guard_that_comes_later_looks_at_those_that_wait():
    control, clock = control_of(Limits(16), Limits(16, ttft_guard=1.0))
    control.hear_waiting("a", 10, 100.0, 50.0)
    clock.pass_ms(101.0)
    assert control.hopeless() == []
    hear(control)
    assert control.hopeless() == ["a"]


def test_no_guard_refuses_nobody():
    control, clock = control_of(Limits(16))
    teach(control, clock)
    assert not control.refuses_turn("a", waited_ms=1e9, prompt_tokens=100, ttft_target_ms=1.0, **TURN)


def test_guard_refuses_what_waited_and_prefill_together_make_late():
    control, clock = control_of(Limits(16, ttft_guard=1.0))
    teach(control, clock)  # 512 tokens a step of 15.2 ms; 1024 take two of them
    assert not control.refuses_turn("a", waited_ms=65.0, prompt_tokens=1024, ttft_target_ms=100.0, **TURN)
    assert control.refuses_turn("a", waited_ms=75.0, prompt_tokens=1024, ttft_target_ms=100.0, **TURN)


def test_guard_counts_what_a_prefix_cache_saves():
    control, clock = control_of(Limits(16, ttft_guard=1.0))
    teach(control, clock)
    for _ in range(200):
        control.hear_cached(1000, 900)
    assert not control.refuses_turn("a", waited_ms=75.0, prompt_tokens=1024, ttft_target_ms=100.0, **TURN)


def test_guard_refuses_nobody_while_no_step_was_seen():
    control, _ = control_of(Limits(16, ttft_guard=1.0))
    assert not control.refuses_turn("a", waited_ms=1e9, prompt_tokens=1, ttft_target_ms=1.0, **TURN)


def test_a_tuner_that_raises_leaves_the_last_limits_in_force():
    control, clock = control_of(Limits(4), Limits(8), then_raises=True)
    for _ in range(5):
        clock.pass_ms(120.0)
        hear(control)
    assert control.active_requests() == 8
    assert control.session.status()["tuner_errors"] == 4


def test_a_request_through_the_steps_becomes_a_window():
    control, clock = control_of(Limits(4))
    control.session.on_arrival("a", 300, ttft_target_ms=100.0, tpot_target_ms=20.0)
    clock.pass_ms(20.0)
    hear(control, tokens=200, prefills=[("a", 200)])
    clock.pass_ms(20.0)
    hear(control, tokens=100, prefills=[("a", 100)], emitted={1: ["a"]})
    clock.pass_ms(10.0)
    hear(control, tokens=1, emitted={1: ["a"]}, finished=["a"])
    clock.pass_ms(60.0)
    control.session.tick()
    window = control.session.latest
    assert (window.prefill_tokens, window.generated_tokens, window.completions) == (300, 2, 1)
    assert window.ttft_ms_p50 == pytest.approx(40.0)
    assert window.tpot_ms_p50 == pytest.approx(10.0)
    assert window.slo_attainment == 1.0


def taught():
    """A step model of 5 ms and 20 us a token."""
    model = StepModel()
    for tokens in (64, 128, 192, 256, 320, 384):
        model.hear(1, tokens, 0, 5 + 0.02 * tokens)
    return model


@given(target_ms=st.floats(5.1, 30.0), budget=st.integers(1, 4096))
def test_most_tokens_is_the_largest_step_that_keeps_the_target(target_ms, budget):
    model = taught()
    most = model.most_tokens(4, 0, target_ms, budget)
    assert 1 <= most <= budget
    assert model.step_ms(4, most, 0) <= target_ms + 1e-6
    if most < budget:
        assert model.step_ms(4, most + 1, 0) > target_ms - 1e-6


def test_a_target_that_no_step_keeps_lets_steps_be_twice_as_long_as_the_shortest():
    assert taught().most_tokens(4, 0, 2.0, 100) == 100
    most = taught().most_tokens(4, 0, 2.0, 4096)
    assert taught().step_ms(4, most, 0) == pytest.approx(2 * taught().step_ms(1, 1, 0), abs=0.03)
    assert taught().most_tokens(1, 0, 2.0, 4096) == 4096


def slow_alone():
    """A model by whose estimate a step of one request takes 133.5 ms at least, and one of sixteen 27 ms."""
    model = StepModel()
    model.estimate = (20.0, 0.12, 0.005, 0.0, 1.4, 9.4, 0.02, 0.0, 0.0)
    assert 133.0 < model.step_ms(1, 1, 0) < 134.0
    return model


@given(batch_size=st.integers(2, 64), target_ms=st.floats(70.0, 133.0))
def test_a_target_below_a_lone_request_still_cuts_steps_of_more(batch_size, target_ms):
    model = slow_alone()
    most = model.most_tokens(batch_size, 0, target_ms, 2048, 64)
    kept = max(target_ms, model.step_ms(batch_size - 1, batch_size - 1, 0))
    assert batch_size <= most < 2048
    assert model.step_ms(batch_size, most, 0) <= kept < model.step_ms(batch_size, most + 1, 0)


@pytest.mark.parametrize("batch_size", [1, 4, 16])
def test_a_millisecond_of_target_does_not_decide_between_one_token_and_the_whole_budget(batch_size):
    below, above = (slow_alone().most_tokens(batch_size, 0, target, 2048, 64) for target in (133.0, 134.0))
    assert below == pytest.approx(above, rel=0.02)
    assert below > 500 if batch_size > 1 else below == 2048


def test_the_batch_that_the_target_is_held_against_counts_those_that_wait():
    class Believer(ScriptedTuner):
        estimate = np.array(slow_alone().estimate)

    session = TunerSession(Believer(Limits(16, step_target_ms=60.0)), clock=Clock())
    control = StepControl(session, 16, 2048)
    assert control.token_budget(1, 0, 0) == 2048
    assert 100 < control.token_budget(40, 0, 0) == control.token_budget(16, 0, 0) < 1000


@given(prompt=st.integers(1, 5000), running=st.integers(0, 64), full=st.integers(1, 1024))
def test_longer_prompts_never_take_less_time(prompt, running, full):
    model = taught()
    assert model.prefill_ms(prompt + 1, running, 0, full) >= model.prefill_ms(prompt, running, 0, full) - 1e-6


def test_a_tuners_estimate_goes_before_what_steps_showed():
    model = taught()
    model.estimate = (1.0, 10.0, 10.0, 0.0, 0.0, 3.0, 0.0, 0.5, 0.0)
    assert model.step_ms(1, 10, 0) == pytest.approx(8.0)
    assert math.isnan(StepModel().step_ms(1, 10, 0))


def test_a_step_target_keeps_the_usual_error_of_predictions_from_the_promise():
    def budget(scatter_ms):
        control, clock = control_of(Limits(16, step_target_ms=12.0))
        for number in range(60):
            tokens = 64 + 64 * (number % 4)
            duration_ms = 5 + 0.02 * tokens + (scatter_ms if number % 8 < 4 else -scatter_ms)
            clock.pass_ms(duration_ms)
            hear(control, tokens=tokens, duration_ms=duration_ms)
        return control.token_budget(4, 3, 1000)

    assert budget(0.0) == pytest.approx(350, abs=10)
    assert budget(1.5) < 0.9 * budget(0.0)


def test_a_guard_refuses_whom_the_usual_error_would_make_late():
    def refuses(scatter_ms):
        control, clock = control_of(Limits(16, ttft_guard=1.0))
        for number in range(60):
            tokens = 64 + 64 * (number % 4)
            duration_ms = 5 + 0.02 * tokens + (scatter_ms if number % 8 < 4 else -scatter_ms)
            clock.pass_ms(duration_ms)
            hear(control, tokens=tokens, duration_ms=duration_ms)
        return control.refuses_turn("a", waited_ms=989.0, prompt_tokens=250, ttft_target_ms=1000.0, **TURN)

    assert not refuses(0.0)
    assert refuses(2.0)


@pytest.mark.parametrize("scale", [1.0, 0.1])
@pytest.mark.parametrize("running", [0, 10, 50])
def test_a_crowd_that_waits_does_not_lengthen_steps_beyond_their_target(running, scale):
    """Steps of 22 ms and 1.4 ms a token, as on a small processor: 128 requests with a token each would take 200 ms."""
    control, clock = control_of(Limits(128, step_target_ms=140.0 * scale), most_requests=128, most_tokens=2048)
    for number in range(60):
        tokens = 20 + 20 * (number % 4)
        clock.pass_ms(scale * (22 + 1.4 * tokens))
        hear(control, tokens=tokens, duration_ms=scale * (22 + 1.4 * tokens))
    assert control.token_budget(running + 200, running, 0) == pytest.approx((140 - 22) / 1.4, abs=2)


@given(batch_size=st.integers(2, 512), target_ms=st.floats(1.0, 1000.0), tau_b=st.floats(0.0, 2.0))
def test_requests_that_a_step_has_room_for_keep_its_target_where_any_number_can(batch_size, target_ms, tau_b):
    model = StepModel()
    model.estimate = (20.0, 0.12, 0.005, 0.0, 1.4, 9.4, tau_b, 0.0, 0.0)
    most = model.most_tokens(batch_size, 0, target_ms, 4096, batch_size)
    usual_sizes = [size for size in (2**k for k in range(10)) if size < batch_size]
    if any(model.step_ms(size, size, 0) <= target_ms for size in usual_sizes):
        assert min(model.step_ms(size, most, 0) for size in range(1, min(batch_size, most) + 1)) <= target_ms + 1e-6


def test_a_known_estimate_goes_before_what_steps_showed_and_after_the_tuners_own():
    class Believer(ScriptedTuner):
        estimate = np.array([1.0, 10.0, 10.0, 0.0, 0.0, 3.0, 0.0, 0.5, 0.0])

    known = (1.0, 10.0, 10.0, 0.0, 0.0, 3.0, 0.0, 0.25, 0.0, 0.0, 1.0)
    limits = Limits(16, step_target_ms=53.0)
    for tuner, tokens in ((ScriptedTuner(limits), 200), (Believer(limits), 100)):
        control = StepControl(TunerSession(tuner, clock=Clock()), 16, 512, known=known)
        assert control.token_budget(4, 3, 0) == tokens
        assert control.hopeless() == []


def serve(control, clock, requests, *, gap_ms=0.0, held_up_ms=0.0, output=12, waited_ms=0.0):
    """Requests one after another in steps of 5 ms and 20 us a token, with a gap after each step; the first is late."""
    for number in range(requests):
        name = f"request {number}"
        control.session.on_arrival(name, 200, ttft_target_ms=1000.0, tpot_target_ms=15.0, waited_ms=waited_ms)
        control.hear_waiting(name, 200, 1000.0, waited_ms)
        control.refuses_turn(name, waited_ms=waited_ms, prompt_tokens=200, ttft_target_ms=1000.0, **TURN)
        control.hear_begun(name)
        clock.pass_ms(held_up_ms)
        for token in range(output):
            tokens = 1 if token else 200
            clock.pass_ms(5 + 0.02 * tokens + gap_ms)
            prefills = [] if token else [(name, 200)]
            finished = [name] if token == output - 1 else []
            said = {"prefills": prefills, "emitted": {1: [name]}, "finished": finished}
            hear(control, batch_size=1, tokens=tokens, duration_ms=5 + 0.02 * tokens, **said)


def test_a_guard_refuses_whom_what_held_up_the_others_would_make_late():
    def refuses(held_up_ms):
        control, clock = control_of(Limits(16, ttft_guard=1.0))
        teach(control, clock)
        serve(control, clock, 20, held_up_ms=held_up_ms)
        return control.refuses_turn("last", waited_ms=950.0, prompt_tokens=200, ttft_target_ms=1000.0, **TURN)

    assert not refuses(0.0)
    assert refuses(60.0)  # whom steps alone would serve within 960 ms


def test_a_guard_leaves_time_for_the_way_out_which_is_as_long_as_the_way_in():
    def refuses(waited_ms):
        control, clock = control_of(Limits(16, ttft_guard=1.0))
        teach(control, clock)
        serve(control, clock, 200, waited_ms=waited_ms)
        return control.refuses_turn("last", waited_ms=950.0, prompt_tokens=200, ttft_target_ms=1000.0, **TURN)

    assert not refuses(0.0)
    assert refuses(80.0)


def test_whoever_waits_hears_of_a_refusal_while_the_promise_stands():
    control, clock = control_of(Limits(16, ttft_guard=1.0))
    teach(control, clock)
    serve(control, clock, 200, waited_ms=80.0)
    control.hear_waiting("late", 200, 1000.0, 80.0)
    clock.pass_ms(825.0)
    assert control.hopeless() == []
    clock.pass_ms(10.0)
    assert control.hopeless() == ["late"]  # told now it hears after 995 ms


def test_a_step_target_leaves_room_for_what_an_engine_does_between_steps():
    def budget(gap_ms):
        control, clock = control_of(Limits(16, step_target_ms=14.0))
        teach(control, clock)
        serve(control, clock, 20, gap_ms=gap_ms)
        return control.token_budget(4, 3, 0)

    assert budget(0.0) == pytest.approx((14.0 - 5.0) / 0.02, abs=2)
    assert budget(1.0) == pytest.approx((15.0 / (1 + 1 / 5.02) - 5.0) / 0.02, rel=0.1)


def test_requests_that_ended_leave_nothing_behind():
    control, clock = control_of(Limits(16, ttft_guard=1.0))
    teach(control, clock)
    serve(control, clock, 5)
    control.hear_waiting("gone", 200, 1000.0, 0.0)
    control.refuses_turn("gone", waited_ms=0.0, prompt_tokens=200, ttft_target_ms=1000.0, **TURN)
    control.hear_ended("gone")
    assert not control._errors._expected
    assert not control._errors._speaking


def test_a_hiccup_does_not_close_the_door_for_good():
    control, clock = control_of(Limits(16, ttft_guard=1.0))
    teach(control, clock)
    serve(control, clock, 10, held_up_ms=3000.0)  # each first token three promises late
    refused = [
        control.refuses_turn(number, waited_ms=0.0, prompt_tokens=200, ttft_target_ms=1000.0, **TURN)
        for number in range(5)
    ]
    assert not any(refused)
    assert control.refuses_turn("late", waited_ms=760.0, prompt_tokens=200, ttft_target_ms=1000.0, **TURN)
    control.hear_waiting("new", 200, 1000.0, 3000.0)  # one that came late to the scheduler
    control.hear_begun("new")
    control.hear_waiting("newer", 200, 1000.0, 0.0)
    assert control.hopeless() == []


def test_recorded_steps_are_those_that_computed_something(tmp_path):
    recorder = StepRecorder(tmp_path / "steps.csv")
    recorder.start()
    session = TunerSession(ScriptedTuner(Limits(16)), window_ms=100.0)
    control = StepControl(session, 16, 512, recorder=recorder)
    hear(control, batch_size=4, tokens=100, context_tokens=50, duration_ms=7.25)
    hear(control, tokens=0, duration_ms=1.0)
    control.close()
    steps = read_measurements(tmp_path / "steps.csv").observations
    told = [column.tolist() for column in (steps.batch_size, steps.tokens, steps.context_tokens, steps.latency_ms)]
    assert told == [[4], [100], [50], [7.25]]
