"""A live engine: requests come and go one by one, each hears all its tokens and ends exactly once."""

import math

import numpy as np
import pytest

pytest.importorskip("torch")
pytest.importorskip("transformers")

import torch
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from torch_workloads import POOL, answered_prompts, assert_nothing_is_held, random_limits, runner, steady_clock

from batchpilot import Limits
from batchpilot.engines.scheduler.state import USER
from batchpilot.engines.torch import OUT_OF_MEMORY, LiveEngine, Sampling, TorchEngineConfig
from batchpilot.engines.torch.live_rows import UserSlots

PRIORITY_NAMES = ("high", "normal", "low")


def live_engine(limits=None, *, room=16, clock=None, **config):
    engine = LiveEngine(TorchEngineConfig(**config), runner(), room=room, clock=clock or steady_clock())
    engine.set_limits(limits or Limits(4))
    return engine


class Client:
    """Submits prompts with known answers and keeps what it hears."""

    def __init__(self, engine):
        self.engine = engine
        self.tokens, self.reasons, self.expected = {}, {}, {}

    def submit(self, k=0, count=8, **options):
        prompt, answer = answered_prompts("tiny-llama")[k]
        request = self.engine.submit(prompt, count, **options)
        self.tokens[request], self.expected[request] = [], answer[:count]
        return request

    def step(self):
        done = self.engine.step()
        for event in done.events:
            assert event.request not in self.reasons, "nothing is heard after the end"
            if event.token is not None:
                self.tokens[event.request].append(event.token)
            if event.finished is not None:
                self.reasons[event.request] = event.finished
        return done

    def run(self):
        while not self.engine.idle:
            self.step()
        return self.reasons

    def assert_tokens(self):
        for request, reason in self.reasons.items():
            said = self.tokens[request]
            assert reason != "length" or len(said) == len(self.expected[request])
            np.testing.assert_array_equal(said, self.expected[request][: len(said)])


def test_requests_that_come_while_others_run_say_what_the_model_itself_says():
    client = Client(live_engine(Limits(3, token_budget=16)))
    for k in range(10):
        client.submit(k, count=1 + k)
        client.step()
    assert set(client.run().values()) == {"length"}
    client.assert_tokens()
    assert_nothing_is_held(client.engine)


def test_a_step_tells_what_it_was():
    client = Client(live_engine())
    prompt = answered_prompts("tiny-llama")[0][0]
    client.submit(0, 3)
    first, second = client.step(), client.step()
    assert (first.batch_size, first.tokens, first.context_tokens) == (1, len(prompt), 0)
    assert (second.batch_size, second.tokens, second.context_tokens) == (1, 1, len(prompt))
    assert second.duration_ms == pytest.approx(1.0)


def test_an_idle_engine_runs_no_step_and_time_goes_on():
    seconds = [0.0]
    client = Client(live_engine(clock=lambda: seconds[0]))
    assert client.engine.idle
    assert client.engine.step().batch_size == 0
    seconds[0] = 5.0
    assert client.engine.close_window().duration_ms == 5000.0
    client.submit(0, 1, waited_ms=300.0)
    seconds[0] = 5.2
    client.run()
    window = client.engine.close_window()
    assert window.ttft_ms_p50 == pytest.approx(500.0)
    assert (window.start_ms, window.arrivals, window.completions) == (5000.0, 1, 1)


@settings(max_examples=40, deadline=None, suppress_health_check=[HealthCheck.too_slow])
@given(
    seed=st.integers(0, 2**32 - 1),
    mode=st.sampled_from(["continuous", "continuous", "static"]),
    prefill=st.sampled_from(["chunked", "whole", "selective"]),
    failing=st.sampled_from([0.0, 0.0, 0.2]),
)
def test_whatever_comes_and_goes_survivors_say_what_the_model_says_and_nothing_is_left(seed, mode, prefill, failing):
    rng = np.random.default_rng(seed)
    engine = live_engine(room=6, kv_capacity_tokens=int(rng.integers(64, 160)), mode=mode, prefill=prefill)
    client = Client(engine)
    ours, left = [], set()
    handle = runner().model.model.layers[1].register_forward_pre_hook(injected(rng, failing))
    try:
        for _ in range(40):
            if rng.random() < 0.4:
                options = {"priority": str(rng.choice(PRIORITY_NAMES)), "user": int(rng.integers(12))}
                ours.append(client.submit(int(rng.integers(POOL)), int(rng.integers(1, 16)), **options))
            if ours and rng.random() < 0.15:
                request = int(rng.choice(ours))
                left |= {request} if engine.cancel(request) else set()
                assert not engine.cancel(request)
            if rng.random() < 0.2:
                engine.set_limits(random_limits(rng))
            if rng.random() < 0.1:
                engine.close_window()
            client.step()
            assert_one_owner_each(engine)
    finally:
        handle.remove()
    client.run()
    assert set(client.reasons) == set(ours)
    assert {request for request in ours if client.reasons[request] == "cancelled"} == left
    client.assert_tokens()
    assert_nothing_is_held(engine)
    assert engine.in_flight == engine.state.clock[0].n_queue == engine.state.clock[0].queued_tokens == 0


def injected(rng, share):
    def fail(module, args):
        if rng.random() < share:
            raise torch.OutOfMemoryError("injected")

    return fail


def assert_one_owner_each(engine):
    owned = engine.tables.owned()
    clock = engine.state.clock[0]
    assert len(set(owned.tolist())) == len(owned) == clock.total_blocks - clock.free_blocks
    np.testing.assert_array_equal(engine.tables.held, engine.state.requests["blocks"])


def test_ten_thousand_short_requests_leave_nothing_behind_in_room_for_64():
    engine = live_engine(Limits(64), room=64)
    clock = engine.state.clock[0]
    rows, arrays = len(engine.state.requests), [id(array) for array in engine.state]
    ends = {}
    submitted = 0
    while submitted < 10_000 or not engine.idle:
        while submitted < 10_000 and engine.in_flight < 64:
            engine.submit([submitted % 256], 1, user=submitted % 500)
            submitted += 1
        for event in engine.step().events:
            assert ends.setdefault(event.request, event.finished) == "length"
    assert sorted(ends) == list(range(10_000))
    assert_nothing_is_held(engine)
    assert len(engine.state.requests) == rows
    assert [id(array) for array in engine.state] == arrays
    assert (clock.n_queue, clock.n_running, engine.in_flight) == (0, 0, 0)
    assert engine.close_window().completions == 10_000
    assert engine.tables.rows <= 128


@pytest.mark.parametrize("when", ["waiting", "prefilling", "decoding", "preempted", "padded"])
def test_a_cancelled_request_frees_its_blocks_at_once(when):
    mode = "static" if when == "padded" else "continuous"
    engine = live_engine(Limits(1 if when == "waiting" else 2, token_budget=4), mode=mode, kv_capacity_tokens=64)
    client = Client(engine)
    long = max(range(POOL), key=lambda k: len(answered_prompts("tiny-llama")[k][0]))
    stays, leaves = client.submit(0, 8), None
    if when == "waiting":
        client.step()
    leaves = client.submit(long, 8)
    if when == "prefilling":
        engine.cancel(stays)
        stays = leaves
        client.step()
        client.step()
    elif when in ("decoding", "padded"):
        while not client.tokens[leaves]:
            client.step()
    elif when == "preempted":
        engine.set_limits(Limits(1, token_budget=64, discipline="priority"))
        client.step()
        client.submit(1, 8, priority="high")
        client.step()
    held = engine.tables.free
    assert engine.cancel(leaves)
    assert engine.tables.free == engine.state.clock[0].free_blocks >= held
    assert not engine.cancel(leaves)
    client.run()
    assert client.reasons[leaves] == "cancelled"
    client.assert_tokens()
    assert_nothing_is_held(engine)


def test_what_does_not_fit_the_queue_is_refused_at_once_and_told_why():
    client = Client(live_engine(Limits(1, max_queued_tokens=0)))
    request = client.submit(0, 4)
    assert client.engine.in_flight == 0
    assert client.step().events == [(request, None, "refused_on_arrival", None)]


def test_what_there_is_no_room_for_is_refused_and_counted():
    client = Client(live_engine(room=2))
    requests = [client.submit(0, 2) for _ in range(5)]
    reasons = client.run()
    assert [reasons[request] for request in requests] == ["length"] * 2 + ["refused_on_arrival"] * 3
    window = client.engine.close_window()
    assert (window.arrivals, window.completions, window.refused_on_arrival) == (5, 2, 3)


def test_the_guard_tells_whom_it_refuses():
    client = Client(live_engine(Limits(1, ttft_guard=1.0)))
    patient, hurried = client.submit(0, 16), client.submit(1, 4, ttft_target_ms=2.0)
    assert client.run() == {patient: "length", hurried: "refused_by_guard"}


def test_each_request_stops_at_its_own_stop_tokens():
    client = Client(live_engine())
    answer = answered_prompts("tiny-llama")[0][1]
    stop = int(answer[3])
    until = int(np.flatnonzero(answer == stop)[0]) + 1
    stopping = client.submit(0, 10, sampling=Sampling(stop_token_ids=(stop,)))
    going = client.submit(0, 10)
    assert client.run() == {stopping: "stop", going: "length"}
    assert (len(client.tokens[stopping]), len(client.tokens[going])) == (until, 10)
    client.assert_tokens()


def test_a_seed_repeats_its_draws_in_whatever_batch_and_greedy_neighbours_stay_greedy():
    drawn = Sampling(temperature=1.0, top_p=0.9, seed=-7)
    said = []
    for others in (0, 3):
        client = Client(live_engine(Limits(8, token_budget=32)))
        greedy = [client.submit(k, 6) for k in range(others)]
        prompt = answered_prompts("tiny-llama")[5][0]
        ours = client.engine.submit(prompt, 12, sampling=drawn)
        client.tokens[ours], client.expected[ours] = [], []
        client.run()
        said.append(client.tokens.pop(ours))
        client.reasons.pop(ours)
        assert len(client.reasons) == len(greedy)
        client.assert_tokens()
    assert said[0] == said[1]


def test_requests_without_a_seed_draw_each_for_itself():
    engine = live_engine(sampling=Sampling(temperature=1.0))
    said = {engine.submit([1, 2, 3], 12): [] for _ in range(2)}
    while not engine.idle:
        for event in engine.step().events:
            said[event.request].append(event.token)
    first, second = said.values()
    assert first != second


def test_an_engine_out_of_memory_tells_it_and_goes_on():
    client = Client(live_engine())
    request = client.submit(0, 4)
    handle = runner().model.model.layers[1].register_forward_pre_hook(injected(np.random.default_rng(0), 1.0))
    assert client.step().failure == OUT_OF_MEMORY
    handle.remove()
    assert client.step().failure is None
    assert client.run() == {request: "length"}
    client.assert_tokens()


def test_a_model_that_raises_fails_the_requests_it_was_run_for_and_the_engine_lives():
    client = Client(live_engine())

    def broken(module, args):
        raise RuntimeError("device lost")

    requests = [client.submit(k, 4) for k in range(2)]
    handle = runner().model.register_forward_pre_hook(broken)
    assert client.step().failure == "RuntimeError: device lost"
    assert client.run() == dict.fromkeys(requests, "failed")
    handle.remove()
    assert client.engine.close_window().failed_requests == 2
    client.submit(0, 4)
    assert list(client.run().values()) == ["failed", "failed", "length"]
    client.assert_tokens()
    assert_nothing_is_held(client.engine)


def test_an_accumulating_batch_tells_when_it_is_due():
    seconds = [0.0]
    client = Client(live_engine(Limits(4, max_wait_ms=50.0), mode="static", clock=lambda: seconds[0]))
    client.submit(0, 2)
    seconds[0] = 0.02
    assert client.step().wake_ms == pytest.approx(30.0)
    seconds[0] = 0.05
    assert client.step().batch_size == 1


@pytest.mark.parametrize(
    ("wrong", "message"),
    [
        ({"prompt_tokens": []}, "prompt_tokens has shape"),
        ({"prompt_tokens": [0.5]}, "whole number"),
        ({"prompt_tokens": [256]}, "outside 0 to 255"),
        ({"max_new_tokens": 0}, "max_new_tokens is 0"),
        ({"max_new_tokens": 5000}, "longest request"),
        ({"ttft_target_ms": -1.0}, "ttft_ms"),
        ({"tpot_target_ms": math.nan}, "tpot_ms"),
        ({"priority": "urgent"}, "unknown priority"),
        ({"waited_ms": -1.0}, "waited_ms is -1.0"),
        ({"estimated_output_tokens": math.inf}, "estimated_output_tokens is inf"),
    ],
)
def test_what_cannot_be_served_is_an_error_that_says_why_and_leaves_no_trace(wrong, message):
    engine = live_engine()
    with pytest.raises(ValueError, match=message):
        engine.submit(**({"prompt_tokens": [1, 2], "max_new_tokens": 4} | wrong))
    assert engine.idle
    assert engine.close_window().arrivals == 0


def test_a_request_of_the_longest_length_is_served():
    engine = live_engine(kv_capacity_tokens=40)
    said = []
    engine.submit([1] * (engine.longest - 3), 3)
    while not engine.idle:
        said += engine.step().events
    assert [event.finished for event in said] == [None, None, "length"]
    assert engine.longest == 41


def test_limits_come_before_requests():
    engine = LiveEngine(TorchEngineConfig(), runner(), room=2)
    with pytest.raises(RuntimeError, match="set_limits"):
        engine.submit([1], 1)


def test_users_without_requests_make_way_for_new_ones():
    records = np.zeros(2, USER)
    finish = records["finish"]
    users = UserSlots(records)
    a, b = users.enter("a"), users.enter("b")
    finish[:] = 7.0
    users.leave(a)
    assert users.enter("b") == b
    assert users.enter("c") == a
    assert (finish[a], finish[b]) == (0.0, 7.0)
