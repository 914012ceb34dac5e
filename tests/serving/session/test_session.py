"""A tuner session: windows from events, decisions at their ends, and what happens when a tuner misbehaves."""

import asyncio
import math
import runpy
import threading
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from batchpilot.core import Limits, Tuner
from batchpilot.core.metrics import METRIC_NAMES
from batchpilot.engines import EngineConfig, MemoryModel, SimulatedEngine
from batchpilot.engines.scheduler.admission import admit_arrivals, next_arrival_ms
from batchpilot.engines.scheduler.commit import commit, commit_failure
from batchpilot.engines.scheduler.details import DetailsReader
from batchpilot.engines.scheduler.plan import plan
from batchpilot.engines.scheduler.state import FINISH_REASONS
from batchpilot.latency import SaturationParameters
from batchpilot.serving import EngineFacts, TunerSession, make_tuner
from batchpilot.serving.session.engine import step_ms
from batchpilot.workloads.table import RequestTable

LATENCY = SaturationParameters(p_max=20.0, k_b=0.12, k_s=0.005, tau_0=5.0, tau_b=0.1, tau_c=1e-4)
GUARDED = Limits(16, token_budget=256, max_queued_tokens=4000, step_target_ms=60.0, ttft_guard=1.0, discipline="spf")


class Clock:
    """A clock that is set by hand."""

    def __init__(self):
        self.ms = 0.0

    def __call__(self):
        return self.ms / 1000.0


class Scripted(Tuner):
    """Asks for one limits after the other and remembers what it heard; raises in the windows it is told to."""

    needs_details = True

    def __init__(self, *limits, raises=(), gate=None):
        self.script, self.raises, self.gate = limits, raises, gate
        self.heard, self.studied = [], []

    def ask(self):
        return self.script[min(len(self.heard), len(self.script) - 1)]

    def study(self, details):
        self.studied.append(details)

    def tell(self, metrics):
        if self.gate is not None:
            self.gate.wait(5.0)
        self.heard.append(metrics)
        if len(self.heard) in self.raises:
            raise RuntimeError("a bug in the tuner")

    def reset(self, seed=None):
        self.heard = []

    def status(self):
        return {"reason": f"after {len(self.heard)} windows"}

    def state_dict(self):
        return {}

    def load_state_dict(self, state):
        pass


class Mirror:
    """Runs a simulated engine's scheduler step by step and tells a session what a server would see."""

    def __init__(self, engine, session, clock):
        self.engine, self.session, self.clock = engine, session, clock
        self.s, self.c = engine.state, engine.state.clock[0]
        self.arrived = self.ended = 0

    def tell_arrivals(self):
        for r in range(self.arrived, int(self.c.next_arrival)):
            request = self.s.requests[r]
            self.session.on_arrival(
                r,
                int(request["prompt"]),
                ttft_target_ms=float(request["ttft_target_ms"]),
                tpot_target_ms=float(request["tpot_target_ms"]),
                waited_ms=float(self.c.now_ms - request["arrival_ms"]),
            )
        self.arrived = int(self.c.next_arrival)

    def tell_ends(self):
        for r in self.s.slots["ended"][self.ended : int(self.c.n_ended)].tolist():
            reason = FINISH_REASONS[self.s.requests[r]["reason"]]
            if reason == "length":
                self.session.on_finish(r)
            elif reason == "failed":
                self.session.on_failure(r)
            else:
                self.session.on_reject(r, reason)
        self.ended = int(self.c.n_ended)

    def step(self, fails=False):
        """One turn of the loop of an executor; False when there is nothing left to do."""
        s, c = self.s, self.c
        admit_arrivals(s)
        self.tell_arrivals()
        before = set(s.slots["running"][: c.n_running].tolist())
        planned = plan(s)
        for r in before & set(s.lines["waiting"][: c.n_queue].tolist()):
            self.session.on_preempt(r)
        self.tell_ends()
        if planned == 0:
            following = next_arrival_ms(s)
            if following == math.inf:
                return False
            c.now_ms = following
            self.clock.ms = float(c.now_ms)
            self.session.tick()
            return True
        rows, tokens = s.slots["planned"][:planned].tolist(), s.slots["tokens"][:planned].tolist()
        generated = s.requests["generated"].copy()
        used = float((c.total_blocks - c.free_blocks) / c.total_blocks)
        shape = int(c.n_plan), int(c.plan_total_tokens), int(c.plan_context)
        duration = float(step_ms(LATENCY.as_array().tolist(), *shape))
        (commit_failure if fails else commit)(s, duration)
        self.clock.ms = float(c.now_ms)
        for r, count in zip(rows, tokens, strict=True):
            self.session.on_start(r)
            if not fails and (count > 1 or generated[r] == 0):
                self.session.on_prefill(r, count)
            if s.requests["generated"][r] > generated[r]:
                self.session.on_tokens(r)
        for r in set(rows) & set(s.lines["waiting"][: c.n_queue].tolist()):
            self.session.on_preempt(r)
        self.tell_ends()
        self.session.on_step(*shape, duration, kv_used_fraction=used, failed=fails)
        return True


def crowd(seed, n=120):
    rng = np.random.default_rng(seed)
    return RequestTable.from_arrays(
        np.cumsum(rng.exponential(60.0, n)), rng.integers(20, 700, n), rng.integers(1, 60, n), priority=1
    )


@pytest.mark.parametrize("limits", [Limits(8), Limits(32, token_budget=128), GUARDED])
@pytest.mark.parametrize("fails_every", [0, 17])
def test_events_give_the_windows_that_the_engine_itself_measures(limits, fails_every):
    memory = MemoryModel(4000.0, 1000.0, 0.5, 0.25, 3200)
    engine = SimulatedEngine(EngineConfig(LATENCY, estimate=LATENCY, memory=memory), crowd(1))
    engine.set_limits(limits)
    clock, tuner, own = Clock(), Scripted(limits), []
    facts = EngineFacts(3200, 1000.0, 0.5, 0.25, 4000.0, tuple(LATENCY.as_array().tolist()))
    session = TunerSession(
        tuner, window_ms=500.0, clock=clock, facts=facts, on_window=lambda _: own.append(engine.close_window())
    )
    mirror, turns = Mirror(engine, session, clock), 0
    while mirror.step(fails=fails_every > 0 and turns % fails_every == 3):
        turns += 1
    assert len(own) > 10
    assert session.status()["odd_events"] == 0
    assert sum(window.completions for window in own) > 20
    for heard, measured in zip(tuner.heard, own, strict=True):
        for name in METRIC_NAMES:
            assert getattr(heard, name) == pytest.approx(getattr(measured, name), rel=1e-6, abs=1e-6, nan_ok=True), name


def test_the_run_compared_with_the_engine_sees_preemptions_refusals_and_failures():
    memory = MemoryModel(4000.0, 1000.0, 0.5, 0.25, 3200)
    seen = {"preemptions": 0, "refused_by_guard": 0, "refused_on_arrival": 0, "failures": 0}
    for limits in (Limits(32, token_budget=128), GUARDED):
        engine = SimulatedEngine(EngineConfig(LATENCY, estimate=LATENCY, memory=memory), crowd(1))
        engine.set_limits(limits)
        clock, tuner = Clock(), Scripted(limits)
        mirror, turns = Mirror(engine, TunerSession(tuner, window_ms=500.0, clock=clock), clock), 0
        while mirror.step(fails=turns % 17 == 3):
            turns += 1
        for name in seen:
            seen[name] += sum(getattr(window, name) for window in tuner.heard)
    assert all(seen.values()), seen


def test_details_are_those_that_the_engine_would_tell():
    limits = Limits(8, token_budget=128)
    engine = SimulatedEngine(EngineConfig(LATENCY, estimate=LATENCY), crowd(2, n=40), record_steps=True)
    engine.set_limits(limits)
    clock, tuner, own, reader = Clock(), Scripted(limits), [], DetailsReader(engine)
    session = TunerSession(tuner, window_ms=400.0, clock=clock, on_window=lambda _: own.append(reader.read()))
    mirror = Mirror(engine, session, clock)
    while mirror.step():
        pass
    assert len(own) > 3
    for heard, told in zip(tuner.studied, own, strict=True):
        assert heard.now_ms == pytest.approx(told.now_ms)
        assert np.allclose(heard.steps, told.steps)
        assert sorted(heard.output_tokens) == sorted(told.output_tokens)
        for part in ("arrivals", "running", "waiting"):
            ours, theirs = (np.sort(getattr(details, part), order="arrival_ms") for details in (heard, told))
            assert len(ours) == len(theirs)
            for name in ours.dtype.names:
                assert np.allclose(ours[name], theirs[name], equal_nan=True), (part, name)


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


def test_tokens_told_a_step_at_a_time_count_as_those_told_one_by_one():
    windows = []
    for together in (False, True):
        clock, tuner = Clock(), Scripted(Limits(8))
        session = TunerSession(tuner, window_ms=100.0, clock=clock)
        for request in range(4):
            session.on_arrival(request, 10 * request, ttft_target_ms=20.0)
        for _ in range(10):
            clock.ms += 15.0
            if together:
                session.on_step_tokens([*range(4), "nobody"])
            else:
                for request in [*range(4), "nobody"]:
                    session.on_tokens(request)
            session.on_step(4, 4, 100, 15.0)
        windows.append((tuner.heard[0].to_dict(), session.status()["odd_events"]))
    assert windows[0][0]["generated_tokens"] == 4 * 7
    assert windows[0][1] == 10
    assert repr(windows[0]) == repr(windows[1])


STEP_EVENTS = st.one_of(
    st.tuples(st.just("say"), st.lists(st.integers(0, 7), min_size=1, max_size=10), st.integers(0, 2)),
    st.tuples(
        st.sampled_from(["arrive", "prefill", "token", "preempt", "finish", "cancel", "step"]),
        st.integers(0, 7),
        st.integers(0, 9),
    ),
)


@settings(max_examples=300, deadline=None)
@given(st.lists(STEP_EVENTS, max_size=60))
def test_whoever_decodes_together_counts_as_if_alone(events):
    clock, told = Clock(), []
    sessions = [
        TunerSession(Scripted(Limits(8)), window_ms=40.0, clock=clock, facts=EngineFacts(1000)) for _ in range(2)
    ]
    for kind, who, number in [*((("arrive", k, 20)) for k in range(6)), *events, ("step", 1, 1)]:
        clock.ms += 3.0
        for session, together in zip(sessions, (True, False), strict=True):
            if kind == "say" and together:
                session.on_step_tokens(who, number)
            elif kind == "say":
                for request in who:
                    session.on_tokens(request, number)
            elif kind == "step":
                session.on_step(who, number, number, 5.0)
            elif kind in ("arrive", "prefill", "token"):
                {"arrive": session.on_arrival, "prefill": session.on_prefill, "token": session.on_tokens}[kind](
                    who, number
                )
            else:
                {"preempt": session.on_preempt, "finish": session.on_finish, "cancel": session.on_cancel}[kind](who)
        recorders = [session._recorder for session in sessions]
        told.append([(r.requests.held_tokens, r.requests.tokens_to_compute(), r.odd_events) for r in recorders])
        assert told[-1][0] == told[-1][1]
    for recorder in (session._recorder for session in sessions):
        requests, details = recorder.requests, recorder.take_details(clock.ms)
        in_flight = [*requests.running.values(), *requests.waiting.values()]
        assert requests.held_tokens == sum(r.prompt_tokens + r.generated_tokens for r in requests.running.values())
        assert requests.unanswered_tokens == sum(r.prompt_tokens for r in in_flight if not r.generated_tokens)
        left = sum(tracked.tokens_to_compute for tracked in requests.running.values())
        assert requests.tokens_to_compute() == requests.queued_tokens + left
        told.append((details.running.tolist(), details.waiting.tolist()))
    assert repr(told[-2]) == repr(told[-1])
    heard = [[window.to_dict() for window in session.tuner.heard] for session in sessions]
    assert repr(heard[0]) == repr(heard[1])


def test_an_arrival_within_a_step_does_not_end_the_window():
    clock, tuner = Clock(), Scripted(Limits(1))
    session = TunerSession(tuner, window_ms=100.0, clock=clock)
    session.on_step(1, 1, 0, 1.0)
    clock.ms = 150.0
    session.on_arrival("a", 10)
    assert tuner.heard == []
    session.tick()
    assert [window.arrivals for window in tuner.heard] == [1]


def test_without_steps_any_event_ends_a_window_that_is_over():
    clock, tuner = Clock(), Scripted(Limits(1))
    session = TunerSession(tuner, window_ms=100.0, clock=clock)
    session.on_arrival("a", 10)
    clock.ms = 40.0
    session.on_first_token("a")
    clock.ms = 160.0
    session.on_finish("a", output_tokens=5)
    clock.ms = 210.0
    session.tick()
    session.tick()
    assert [window.arrivals for window in tuner.heard] == [1]
    clock.ms = 270.0
    session.tick()
    first, second = tuner.heard
    assert (first.prefill_tokens, first.ttft_ms_p50, first.completions) == (10, pytest.approx(40.0), 0)
    assert (second.generated_tokens, second.completions) == (4, 1)
    assert second.tpot_ms_p50 == pytest.approx(30.0)


def test_whoever_goes_away_counts_as_neither_served_nor_missed():
    clock, tuner = Clock(), Scripted(Limits(8))
    session = TunerSession(tuner, clock=clock)
    session.on_arrival("a", 10)
    session.on_cancel("a")
    clock.ms = 1000.0
    session.tick()
    (window,) = tuner.heard
    assert (window.cancelled_requests, window.failed_requests, window.completions) == (1, 0, 0)
    assert math.isnan(window.slo_attainment)


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


def test_events_from_threads_and_coroutines_are_all_counted():
    windows = []
    session = TunerSession(Scripted(Limits(8)), window_ms=1.0, on_window=windows.append)

    def serve(name):
        for k in range(200):
            request = (name, k)
            session.on_arrival(request, 3)
            session.on_first_token(request)
            session.on_step(1, 3, 0, 0.01)
            session.on_finish(request, output_tokens=2)

    async def main():
        await asyncio.gather(*(asyncio.to_thread(serve, name) for name in range(4)))

    asyncio.run(main())
    while not windows or session.now_ms - windows[-1].end_ms < 1.0 or session.latest.arrivals:
        session.tick()
    totals = [
        sum(getattr(w, name) for w in windows) for name in ("arrivals", "completions", "generated_tokens", "steps")
    ]
    assert totals == [800, 800, 1600, 800]
    assert (session.waiting, session.running, session.queued_tokens) == (0, 0, 0)
    assert session.status()["odd_events"] == 0


EVENTS = st.tuples(
    st.sampled_from(
        ["arrival", "start", "prefill", "tokens", "preempt", "finish", "reject", "failure", "cancel", "step", "tick"]
    ),
    st.integers(0, 3),
    st.integers(-2, 50),
)


@settings(max_examples=200, deadline=None)
@given(st.lists(EVENTS, max_size=60))
def test_no_order_of_events_breaks_a_session(events):
    clock = Clock()
    session = TunerSession(Scripted(Limits(8)), window_ms=20.0, clock=clock, facts=EngineFacts(1000))
    calls = {
        "arrival": lambda r, n: session.on_arrival(r, n),
        "start": lambda r, n: session.on_start(r),
        "prefill": session.on_prefill,
        "tokens": session.on_tokens,
        "preempt": lambda r, n: session.on_preempt(r),
        "finish": session.on_finish,
        "reject": lambda r, n: session.on_reject(r),
        "failure": lambda r, n: session.on_failure(r if n > 0 else None),
        "cancel": lambda r, n: session.on_cancel(r),
        "step": lambda r, n: session.on_step(r, n, n, 5.0),
        "tick": lambda r, n: session.tick(),
    }
    for name, request, number in events:
        clock.ms += 3.0
        calls[name](request, number)
        requests = session._recorder.requests
        assert session.queued_tokens == sum(tracked.prompt_tokens for tracked in requests.waiting.values()) >= 0
        assert not set(requests.waiting) & set(requests.running)
    assert session.status()["tuner_errors"] == 0


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


@pytest.mark.parametrize("window_ms", [0.0, -1.0, math.inf, math.nan])
def test_a_window_without_length_is_refused(window_ms):
    with pytest.raises(ValueError, match="window_ms"):
        TunerSession(Scripted(Limits(1)), window_ms=window_ms)


def test_a_rejection_needs_a_reason_that_is_known():
    session = TunerSession(Scripted(Limits(1)))
    with pytest.raises(ValueError, match="refused_on_arrival"):
        session.on_reject("a", "refused_on_arival")


def test_the_example_server_follows_its_tuner():
    path = Path(__file__).parents[3] / "examples/tuner_session.py"
    example = runpy.run_path(str(path))
    session = asyncio.run(example["main"](requests=150))
    status = session.status()
    assert (status["odd_events"], status["running"], status["waiting"]) == (0, 0, 0)
    assert status["windows"] > 0
    assert session.limits().batch_size > 8


def test_tokens_that_a_server_has_cached_are_no_work_and_count_as_hits():
    clock, tuner = Clock(), Scripted(Limits(8))
    session = TunerSession(tuner, window_ms=100.0, clock=clock)
    session.on_arrival("a", 1000, cached_tokens=960)
    session.on_arrival("b", 500)
    session.on_arrival("c", 300, cached_tokens=300)
    assert session.queued_tokens == session.unanswered_tokens == 40 + 500 + 1
    session.on_start("a")
    session.on_start("b", cached_tokens=400)
    assert session.queued_tokens == 1
    assert session.unanswered_tokens == 40 + 100 + 1
    clock.ms = 50.0
    session.on_tokens("a", 1)
    session.on_tokens("b", 1)
    assert session.unanswered_tokens == 1
    session.on_step(2, 140, 1360, 5.0)
    clock.ms = 120.0
    session.tick()
    (window,) = tuner.heard
    assert (window.admitted_prompt_tokens, window.cached_prompt_tokens) == (1500, 1360)
    assert window.prefix_hit_rate == pytest.approx(1360 / 1500)
    assert window.prefill_tokens == 140
    (waiting,) = tuner.studied[0].waiting
    assert (waiting["computed_tokens"], waiting["cached_tokens"]) == (299, 299)
