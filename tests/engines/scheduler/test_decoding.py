"""Decoding by calendar gives the very numbers that planning request by request gives."""

import math

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from batchpilot import Limits, RequestTable, SaturationParameters
from batchpilot.engines import EngineConfig, SimulatedEngine

LATENCY = SaturationParameters(p_max=12.0, k_b=2.0, k_s=0.02, tau_0=4.0, tau_b=0.05, tau_c=4e-4)
NEVER = 2**62


def table(seed, n=80, concurrency=0, longest_output=120):
    rng = np.random.default_rng(seed)
    arrivals = np.cumsum(rng.exponential(60.0, n))
    return RequestTable.from_arrays(
        arrivals,
        rng.integers(1, 700, n),
        rng.integers(1, longest_output, n),
        user=rng.integers(0, 3, n),
        concurrency=concurrency,
    )


def played(requests, config, schedule, *, by_calendar, cancelled=()):
    """Windows, step log and request records of an engine that is given the limits of a schedule in turn."""
    engine = SimulatedEngine(config, requests, record_steps=True)
    engine.state.clock.decoding_pause = 0 if by_calendar else NEVER
    windows = []
    for k, limits in enumerate([*schedule, schedule[-1].replace(batch_size=32)]):
        engine.set_limits(limits)
        for request in cancelled[k : k + 1]:
            engine.cancel(request)
        window, _ = engine.run_window(400.0 * (k + 1) if k < len(schedule) else math.inf)
        windows.append(window)
    kept = [name for name in engine.state.requests.dtype.names if name != "in_step"]
    return windows, engine.step_log(), engine.state.requests[kept]


def assert_equal(a, b):
    assert str(a[0]) == str(b[0])
    np.testing.assert_array_equal(a[1], b[1])
    np.testing.assert_array_equal(a[2].tolist(), b[2].tolist())


@settings(max_examples=40)
@given(
    seed=st.integers(0, 10_000),
    sizes=st.lists(st.integers(1, 24), min_size=1, max_size=6),
    budget=st.integers(8, 700),
    guard=st.one_of(st.none(), st.floats(0.1, 3.0)),
    kv_tokens=st.integers(900, 9000),
    block_size=st.sampled_from([1, 7, 16, 128]),
    noise=st.sampled_from([0.0, 0.2]),
    prefill=st.sampled_from(["chunked", "whole"]),
    discipline=st.sampled_from(["fcfs", "spf", "fair", "slo"]),
    concurrency=st.sampled_from([0, 5]),
)
def test_any_setting_gives_the_same_numbers_with_and_without_calendars(
    seed, sizes, budget, guard, kv_tokens, block_size, noise, prefill, discipline, concurrency
):
    config = EngineConfig(
        LATENCY,
        kv_capacity_tokens=kv_tokens,
        block_size=block_size,
        noise=noise,
        prefill=prefill,
        discipline=discipline,
        drift=((700.0, LATENCY.scaled(1.7)),),
    )
    schedule = [Limits(size, budget, ttft_guard=guard, step_target_ms=40.0) for size in sizes]
    requests = table(seed, concurrency=concurrency)
    cancelled = (3, 5, 40)
    by_calendar = played(requests, config, schedule, by_calendar=True, cancelled=cancelled)
    assert_equal(by_calendar, played(requests, config, schedule, by_calendar=False, cancelled=cancelled))


def test_a_run_of_decoding_requests_is_leapt_over_and_not_one_of_them_is_touched():
    requests = RequestTable.from_arrays(np.zeros(20), 50, 400)
    engine = SimulatedEngine(EngineConfig(LATENCY, block_size=20), requests)
    engine.set_limits(Limits(20))
    engine.run_until(1.0)
    s = engine.state
    while (s.requests["generated"] == 0).any():
        engine.run_until(engine.now_ms + 1.0)
    from batchpilot.engines.scheduler.calendars import open_calendars
    from batchpilot.engines.simulated.kernel import decode_on

    assert open_calendars(s)
    before, generated = int(s.clock[0].step), s.requests["generated"].copy()
    assert decode_on(s, math.inf) > 300
    assert int(s.clock[0].step) - before > 300
    np.testing.assert_array_equal(s.requests["generated"], generated)


@pytest.mark.parametrize("kv_tokens", [1500, 4000])
def test_requests_that_were_preempted_go_back_into_the_calendars(kv_tokens):
    config = EngineConfig(LATENCY, kv_capacity_tokens=kv_tokens)
    schedule = [Limits(16, 512)]
    requests = table(1, longest_output=300)
    by_calendar = played(requests, config, schedule, by_calendar=True)
    assert sum(window.preemptions for window in by_calendar[0]) > 5
    assert_equal(by_calendar, played(requests, config, schedule, by_calendar=False))
