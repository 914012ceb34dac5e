"""The way from a client to the scheduler: a request comes so much later, and its TTFT holds it."""

from dataclasses import replace

import numpy as np
import pytest

from batchpilot import SLO, Limits, RequestTable, SaturationParameters, simulate
from batchpilot.engines.simulated.config import EngineConfig
from batchpilot.engines.simulated.stream import simulate_stream
from batchpilot.fleet import Link, ReplicaSpec, simulate_fleet
from batchpilot.workloads.turns import Turns

DEVICE = SaturationParameters(p_max=0.7, k_b=10.0, k_s=0.05, tau_0=12.0, tau_b=0.4, tau_c=5e-4)
FRONT_MS = 300.0
LIMITS = Limits(16, 512, ttft_guard=1.0, step_target_ms=80.0)


def requests(n=200, ttft_ms=900.0, start_ms=0.0, concurrency=0):
    rng = np.random.default_rng(3)
    arrival = start_ms + np.sort(rng.uniform(0, 30_000, n))
    prompt, output = rng.integers(20, 400, n), rng.integers(2, 60, n)
    return RequestTable.from_arrays(
        np.zeros(n) if concurrency else arrival, prompt, output, slos=SLO(ttft_ms, 150.0), concurrency=concurrency
    )


def test_a_way_is_as_if_every_request_came_later_and_had_less_time():
    far = simulate(requests(), DEVICE, LIMITS, front_ms=FRONT_MS, noise=0.1)
    late = simulate(requests(ttft_ms=900.0 - FRONT_MS, start_ms=FRONT_MS), DEVICE, LIMITS, noise=0.1)
    assert 0 < far.count("refused_by_guard") < 200, "the guard must have something to say"
    np.testing.assert_allclose(far.ttft_ms, late.ttft_ms + FRONT_MS)
    np.testing.assert_array_equal(far.tpot_ms, late.tpot_ms)
    np.testing.assert_array_equal(far.finish_code, late.finish_code)
    np.testing.assert_array_equal(far.slo_met, late.slo_met)
    assert np.nanmin(far.ttft_ms) > FRONT_MS


def test_windows_count_a_request_when_it_comes_and_its_ttft_from_when_it_was_sent():
    one = RequestTable.from_arrays(np.array([0.0]), 100, 5)
    windows = simulate(one, DEVICE, Limits(4, 512), front_ms=1500.0, window_ms=1000.0).windows
    assert [window.arrivals for window in windows] == [0, 1]
    assert windows[1].ttft_ms_p50 > 1500.0


def test_turns_of_a_conversation_have_it_each():
    turns = Turns(np.array([0, 0]), np.array([0.0, 100.0]))
    table = RequestTable.from_arrays(np.array([0.0, 100.0]), 50, 4, turns=turns)
    near, far = (simulate(table, DEVICE, Limits(4, 512), front_ms=ms) for ms in (0.0, FRONT_MS))
    np.testing.assert_allclose(far.ttft_ms, near.ttft_ms + FRONT_MS)
    assert far.requests.arrival_ms[1] == pytest.approx(near.requests.arrival_ms[1] + FRONT_MS)


def test_a_stream_says_what_one_table_says():
    whole = requests()
    parts = [whole.select(np.arange(a, b)) for a, b in ((0, 70), (70, 71), (71, 200))]
    config = EngineConfig(latency=DEVICE, estimate=DEVICE, front_ms=FRONT_MS)
    told = list(simulate_stream(parts, config, LIMITS))
    once = simulate(whole, DEVICE, LIMITS, estimate=DEVICE, front_ms=FRONT_MS)
    assert sum(one.count("length") for one in told) == once.count("length")
    assert sum(np.nansum(one.ttft_ms) for one in told) == pytest.approx(np.nansum(once.ttft_ms))


def test_a_fleet_has_it_once_a_request_also_where_decoding_is_apart():
    engine = EngineConfig(latency=DEVICE, estimate=DEVICE, front_ms=FRONT_MS)
    alone = simulate(requests(), DEVICE, LIMITS, estimate=DEVICE, front_ms=FRONT_MS)
    fleet = simulate_fleet(requests(), ReplicaSpec(engine, LIMITS)).served
    np.testing.assert_allclose(fleet.ttft_ms, alone.ttft_ms)
    one = RequestTable.from_arrays(np.array([0.0]), 300, 3)
    pools = [ReplicaSpec(engine, LIMITS, name=role, role=role) for role in ("prefill", "decode")]
    far = simulate_fleet(one, pools, link=Link(10.0, 131_072.0, 2.0)).served
    pools = [replace(spec, engine=replace(engine, front_ms=0.0)) for spec in pools]
    near = simulate_fleet(one, pools, link=Link(10.0, 131_072.0, 2.0)).served
    np.testing.assert_allclose(far.ttft_ms, near.ttft_ms + FRONT_MS)
    np.testing.assert_allclose(far.e2e_ms, near.e2e_ms + FRONT_MS)


def test_what_cannot_be_is_refused():
    with pytest.raises(ValueError, match=r"front_ms is -1; it must be >= 0 ms"):
        EngineConfig(latency=DEVICE, front_ms=-1)
    with pytest.raises(ValueError, match="the clients of a closed loop have none"):
        simulate(requests(concurrency=4), DEVICE, LIMITS, front_ms=FRONT_MS)
