"""A cancelled request ends at once, whatever it is doing, and takes nothing from the others."""

import math

import numpy as np
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from batchpilot import SLO, Limits, RequestTable, SaturationParameters
from batchpilot.engines import EngineConfig, SimulatedEngine, run_engine
from batchpilot.engines.scheduler.state import CANCELLED, FINISH_REASONS, LENGTH, UNFINISHED

LATENCY = SaturationParameters(p_max=12.0, k_b=10.0, k_s=0.01, tau_0=5.0, tau_b=0.02, tau_c=3e-4)
MODES = [("continuous", "chunked"), ("continuous", "whole"), ("continuous", "selective"), ("static", "chunked")]


def engine_on(table, limits, mode=("continuous", "chunked"), **options):
    config = EngineConfig(latency=LATENCY, mode=mode[0], prefill=mode[1], **options)
    engine = SimulatedEngine(config, table, record_steps=True)
    engine.set_limits(limits)
    return engine


def assert_accounts_balance(engine):
    """KV blocks, queue and ends as the requests themselves have them."""
    clock, requests = engine.state.clock[0], engine.state.requests
    assert requests["blocks"].sum() == clock.total_blocks - clock.free_blocks
    assert np.all(requests["blocks"][requests["reason"] != UNFINISHED] == 0)
    assert clock.n_ended == np.count_nonzero(requests["reason"] != UNFINISHED)
    waiting = engine.state.lines["waiting"][: clock.n_queue]
    running = engine.state.slots["running"][: clock.n_running]
    assert clock.queued_tokens == requests["prompt"][waiting].sum()
    alive = np.flatnonzero(requests["reason"][: clock.next_arrival] == UNFINISHED)
    assert sorted([*waiting, *running]) == alive.tolist()
    keys = [(requests["key"][r], r) for r in waiting]
    assert all(keys[(k - 1) // 2] <= keys[k] for k in range(1, len(keys)))
    remaining = np.flatnonzero(requests["reason"][clock.next_arrival :] == CANCELLED)
    assert clock.cancelled_ahead == len(remaining)


@st.composite
def tables(draw):
    rng = np.random.default_rng(draw(st.integers(0, 2**32 - 1)))
    n = draw(st.integers(1, 40))
    return RequestTable.from_arrays(
        np.cumsum(rng.exponential(draw(st.sampled_from([1e-3, 5.0, 80.0])), n)),
        rng.integers(1, 1200, n),
        rng.integers(1, 80, n),
        user=rng.integers(0, 4, n),
        priority=rng.integers(0, 3, n),
        slos=SLO(1500.0, 80.0),
        concurrency=draw(st.sampled_from([0, 0, 4])),
    )


limits_of_any_kind = st.builds(
    Limits,
    batch_size=st.integers(1, 30),
    token_budget=st.one_of(st.none(), st.integers(1, 2000)),
    max_queued_tokens=st.one_of(st.none(), st.integers(0, 6000)),
    max_wait_ms=st.one_of(st.none(), st.floats(0.0, 200.0)),
    ttft_guard=st.one_of(st.none(), st.floats(0.05, 3.0)),
    discipline=st.sampled_from(["fcfs", "sjf", "spf", "slo", "fair", "priority"]),
)


@settings(max_examples=150, deadline=None, suppress_health_check=[HealthCheck.too_slow])
@given(
    table=tables(),
    limits=st.lists(limits_of_any_kind, min_size=1, max_size=3),
    mode=st.sampled_from(MODES),
    kv=st.integers(1400, 6000),
    seed=st.integers(0, 2**32 - 1),
    share=st.sampled_from([0.02, 0.3, 1.0]),
)
def test_every_request_ends_exactly_once_and_frees_its_blocks_however_clients_leave(
    table, limits, mode, kv, seed, share
):
    rng = np.random.default_rng(seed)
    engine = engine_on(table, limits[0], mode, kv_capacity_tokens=kv)
    cancelled = set()
    windows = []
    while not engine.finished:
        for r in np.flatnonzero(rng.random(len(table)) < share * rng.random()):
            ended = engine.state.requests["reason"][r] != UNFINISHED
            assert engine.cancel(int(r)) is not ended
            cancelled |= set() if ended else {int(r)}
            assert_accounts_balance(engine)
        engine.set_limits(limits[rng.integers(len(limits))])
        windows.append(engine.run_window(engine.now_ms + 25.0)[0])
        assert_accounts_balance(engine)
    windows.append(engine.close_window())
    reasons = engine.state.requests["reason"][: len(table)]
    assert set(np.flatnonzero(reasons == CANCELLED)) == cancelled
    assert engine.state.clock[0].free_blocks == kv // 16
    finished = reasons == LENGTH
    np.testing.assert_array_equal(
        engine.state.requests["generated"][: len(table)][finished], table.output_tokens[finished]
    )
    served = sum(w.completions + w.refusals + w.failed_requests for w in windows)
    assert served == len(table) - len(cancelled)


def test_a_request_cancelled_in_a_window_is_neither_served_nor_missed():
    table = RequestTable.from_arrays([0.0, 0.0], 10, [5, 500], slos=SLO(1e6, 1e6))
    engine = engine_on(table, Limits(2))
    engine.run_until(100.0)
    assert engine.cancel(1)
    window = engine.close_window()
    assert (window.completions, window.slo_attainment) == (1, 1.0)
    assert window.generated_tokens > 5
    engine.run_until(200.0)
    assert math.isnan(engine.close_window().slo_attainment)


def test_a_result_leaves_cancelled_requests_out_of_its_shares():
    table = RequestTable.from_arrays([0.0, 0.0, 900.0], 10, [5, 500, 5], slos=SLO(1e6, 1e6))
    engine = engine_on(table, Limits(2))
    engine.cancel(1)
    engine.cancel(2)
    result = run_engine(engine, Limits(2), window_ms=50.0)
    assert result.finish_reason == ["length", "cancelled", "cancelled"]
    assert result.slo_attainment == result.goodput_fraction == result.success_rate == 1.0
    assert np.isnan(result.e2e_ms).tolist() == [False, True, True]
    assert result.elapsed_ms < 900.0


def test_cancelling_an_ended_request_says_so_and_changes_nothing():
    engine = engine_on(RequestTable.from_arrays([0.0, 0.0], 10, [2, 50]), Limits(2))
    engine.run_until(60.0)
    before = [repr(array.tolist()) for array in engine.state]
    assert engine.cancel(0) is False
    assert [repr(array.tolist()) for array in engine.state] == before
    assert engine.cancel(1) is True
    assert engine.cancel(1) is False


@pytest.mark.parametrize("request_id", [-1, 2])
def test_a_request_that_does_not_exist_cannot_be_cancelled(request_id):
    engine = engine_on(RequestTable.from_arrays([0.0, 0.0], 10, 5), Limits(2))
    with pytest.raises(ValueError, match=f"no request {request_id}"):
        engine.cancel(request_id)


def test_a_client_of_a_closed_loop_goes_on_with_its_next_request():
    engine = engine_on(RequestTable.from_arrays(np.zeros(6), 10, 50, concurrency=2), Limits(8))
    engine.cancel(3)
    engine.run_until(30.0)
    engine.cancel(0)
    running = []
    while not engine.finished:
        running.append(int(engine.state.clock[0].n_running))
        engine.run_until(engine.now_ms + 1.0)
    assert max(running) == 2
    assert [FINISH_REASONS[k] for k in engine.state.requests["reason"]] == [
        "cancelled",
        *["length"] * 2,
        "cancelled",
    ] + ["length"] * 2


def test_a_request_cancelled_before_it_arrives_never_arrives():
    engine = engine_on(RequestTable.from_arrays([0.0, 500.0, 1000.0], 10, 5), Limits(8))
    engine.cancel(2)
    engine.cancel(1)
    assert engine.run_until(math.inf)
    assert engine.now_ms < 500.0
    assert engine.close_window().arrivals == 1


def test_a_padded_batch_lasts_as_long_as_its_longest_remaining_member():
    def steps(leaving):
        table = RequestTable.from_arrays(np.zeros(3), 10, [5, 9, 40])
        engine = engine_on(table, Limits(3), ("static", "chunked"))
        engine.run_until(20.0)
        for r in leaving:
            engine.cancel(r)
        engine.run_until(math.inf)
        return len(engine.step_log())

    assert (steps([]), steps([0]), steps([2]), steps([1, 2])) == (40, 40, 9, 5)


def test_a_padded_batch_ends_when_only_members_that_are_done_remain():
    engine = engine_on(RequestTable.from_arrays([0.0, 0.0], 10, [2, 40]), Limits(2), ("static", "chunked"))
    engine.run_until(100.0)
    assert not engine.finished
    engine.cancel(1)
    assert engine.finished
    assert engine.state.requests["reason"].tolist() == [LENGTH, CANCELLED]
