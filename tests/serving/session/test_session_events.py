"""What a session counts of events, whoever tells them, in whatever order and however many at once."""

import asyncio
import math

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from session_scripts import Clock, Scripted

from batchpilot.core import Limits
from batchpilot.serving import EngineFacts, TunerSession
from batchpilot.serving.session.requests import MOST_TAKEN_OUT


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


@pytest.mark.parametrize("ended", [0, 1, MOST_TAKEN_OUT, MOST_TAKEN_OUT + 1, 20])
def test_those_left_decode_together_however_many_have_ended(ended):
    session = TunerSession(Scripted(Limits(64)), clock=Clock())
    for request in range(23):
        session.on_arrival(request, 10)
    session.on_step_tokens(range(20))
    for request in range(ended):
        session.on_finish(3 * request % 20)
    told = [request for request in range(20) if request not in {3 * k % 20 for k in range(ended)}]
    requests = session._recorder.requests
    assert requests.decode([*told, 20, 21], 1) == [20, 21]
    assert requests.held_tokens == 12 * len(told)
    session.on_step_tokens([*told, 22])
    assert requests.decode([*told, 22], 1) == []
    assert [requests.get(request).generated_tokens for request in [*told, 22]] == [4] * len(told) + [2]


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


@pytest.mark.parametrize("window_ms", [0.0, -1.0, math.inf, math.nan])
def test_a_window_without_length_is_refused(window_ms):
    with pytest.raises(ValueError, match="window_ms"):
        TunerSession(Scripted(Limits(1)), window_ms=window_ms)


def test_a_rejection_needs_a_reason_that_is_known():
    session = TunerSession(Scripted(Limits(1)))
    with pytest.raises(ValueError, match="refused_on_arrival"):
        session.on_reject("a", "refused_on_arival")
