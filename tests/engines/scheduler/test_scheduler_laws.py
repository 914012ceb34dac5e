"""Laws that hold for every workload and every setting of the scheduler."""

import numpy as np
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from batchpilot import SLO, Limits, RequestTable, SaturationParameters, simulate
from batchpilot.engines import EngineConfig, SimulatedEngine

LATENCY = SaturationParameters(p_max=12.0, k_b=10.0, k_s=0.01, tau_0=5.0, tau_b=0.02, tau_c=3e-4)


@st.composite
def tables(draw):
    rng = np.random.default_rng(draw(st.integers(0, 2**32 - 1)))
    n = draw(st.integers(1, 60))
    gap = draw(st.sampled_from([0.0, 5.0, 80.0, 500.0]))
    return RequestTable.from_arrays(
        np.cumsum(rng.exponential(gap, n)) if gap else np.zeros(n),
        rng.integers(1, 1200, n),
        rng.integers(1, 80, n),
        estimated_output_tokens=rng.uniform(1, 80, n),
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
    step_target_ms=st.one_of(st.none(), st.floats(0.5, 100.0)),
    ttft_guard=st.one_of(st.none(), st.floats(0.05, 3.0)),
    discipline=st.sampled_from(["fcfs", "sjf", "spf", "slo", "fair", "priority", "value"]),
    refusal_bound=st.one_of(st.none(), st.floats(0.0, 1.0)),
)
modes = st.sampled_from(
    [("continuous", "chunked"), ("continuous", "whole"), ("continuous", "selective"), ("static", "chunked")]
)
kv_tokens = st.integers(1400, 6000)
lawful = settings(max_examples=120, deadline=None, suppress_health_check=[HealthCheck.too_slow])


@lawful
@given(tables(), limits_of_any_kind, modes, kv_tokens)
def test_every_request_ends_exactly_once_with_all_its_tokens_or_a_reason(table, limits, mode, kv):
    result = simulate(table, LATENCY, limits, kv_capacity_tokens=kv, mode=mode[0], prefill=mode[1])
    reasons = np.array(result.finish_reason)
    assert not np.any(reasons == "unfinished")
    finished = reasons == "length"
    np.testing.assert_array_equal(result.generated_tokens[finished], table.output_tokens[finished])
    refused = np.char.startswith(reasons, "refused")
    assert np.all(result.generated_tokens[refused] == 0)
    assert np.all(np.isnan(result.ttft_ms[refused]))
    assert sum(window.completions for window in result.windows) == finished.sum()
    assert sum(window.refusals for window in result.windows) == refused.sum()
    assert sum(window.arrivals for window in result.windows) == len(table)
    assert sum(window.generated_tokens for window in result.windows) == result.total_generated_tokens


@lawful
@given(tables(), limits_of_any_kind, modes, kv_tokens)
def test_no_step_exceeds_its_limits(table, limits, mode, kv):
    result = simulate(table, LATENCY, limits, kv_capacity_tokens=kv, mode=mode[0], prefill=mode[1], record_steps=True)
    batch_sizes, tokens = result.step_log[:, 1], result.step_log[:, 2]
    assert np.all(batch_sizes <= limits.batch_size)
    assert np.all(tokens >= batch_sizes)
    if limits.token_budget is not None:
        # A padded batch of one token each cannot be cut further than one token a member.
        floor = batch_sizes if mode[0] == "static" else 0
        assert np.all(tokens <= np.maximum(limits.token_budget, floor))


@lawful
@given(tables(), limits_of_any_kind, modes, kv_tokens, st.sampled_from([0.0, 0.3]))
def test_nobody_waits_longer_than_the_guard_allows_before_being_told(table, limits, mode, kv, noise):
    options = {"kv_capacity_tokens": kv, "mode": mode[0], "prefill": mode[1], "noise": noise}
    result = simulate(table, LATENCY, limits, **options)
    refused = np.array(result.finish_reason) == "refused_by_guard"
    if limits.ttft_guard is None:
        assert not refused.any()
        return
    assert np.all(result.e2e_ms[refused] <= limits.ttft_guard * table.ttft_target_ms[refused] + 1e-6)
    assert np.all(result.e2e_ms[refused] >= 0)


@lawful
@given(tables(), limits_of_any_kind, modes, kv_tokens)
def test_the_lines_of_those_who_wait_are_kept(table, limits, mode, kv):
    engine = SimulatedEngine(EngineConfig(latency=LATENCY, kv_capacity_tokens=kv, mode=mode[0], prefill=mode[1]), table)
    done, clock, requests, lines = False, engine.state.clock[0], engine.state.requests, engine.state.lines
    while not done:
        engine.set_limits(limits if int(clock.step) % 2 else limits.replace(ttft_guard=1.0, discipline="spf"))
        done = engine.run_until(engine.now_ms + 30.0)
        waiting, due = lines["waiting"][: clock.n_queue], lines["due"][: clock.n_due]
        assert sorted(due) == sorted(waiting[requests["admitted"][waiting] == 0]) or clock.ttft_guard == np.inf
        np.testing.assert_array_equal(lines["place"][waiting], np.arange(clock.n_queue))
        np.testing.assert_array_equal(lines["due_place"][due], np.arange(clock.n_due))
        np.testing.assert_array_equal(lines["turn_key"][: clock.n_queue], requests["key"][waiting])
        np.testing.assert_array_equal(lines["due_key"][: clock.n_due], requests["latest_ms"][due])
        assert clock.queued_tokens == requests["prompt"][waiting].sum()
        here = np.arange(len(table)) < clock.next_arrival
        silent = here & (requests["reason"][: len(table)] == 0) & (requests["generated"][: len(table)] == 0)
        assert clock.unanswered_tokens == table.prompt_tokens[silent].sum()


@lawful
@given(tables(), limits_of_any_kind, modes, kv_tokens)
def test_kv_blocks_are_conserved_and_never_exceed_capacity(table, limits, mode, kv):
    config = EngineConfig(latency=LATENCY, kv_capacity_tokens=kv, mode=mode[0], prefill=mode[1])
    engine = SimulatedEngine(config, table)
    engine.set_limits(limits)
    clock = engine.state.clock[0]
    total = kv // 16
    while not engine.run_until(engine.now_ms + 20.0):
        held = engine.state.requests["blocks"]
        assert 0 <= clock.free_blocks <= total
        assert held.sum() == total - clock.free_blocks
        live = engine.state.requests["reason"] == 0
        assert np.all(held[live] * 16 >= engine.state.requests["computed"][live])
    assert clock.free_blocks == total


@lawful
@given(tables(), limits_of_any_kind, modes, kv_tokens)
def test_tokens_are_conserved(table, limits, mode, kv):
    result = simulate(table, LATENCY, limits, kv_capacity_tokens=kv, mode=mode[0], prefill=mode[1], record_steps=True)
    assert result.computed_tokens == result.step_log[:, 2].sum()
    finished = np.array(result.finish_reason) == "length"
    needed = (table.prompt_tokens + table.output_tokens - 1)[finished].sum()
    assert result.useful_tokens == needed
    assert result.computed_tokens >= needed
    if mode[0] == "continuous" and result.preemptions == 0:
        assert result.computed_tokens == needed


@lawful
@given(tables(), limits_of_any_kind, modes, kv_tokens)
def test_a_run_repeats_itself_exactly(table, limits, mode, kv):
    options = {"kv_capacity_tokens": kv, "mode": mode[0], "prefill": mode[1], "noise": 0.1, "seed": 3}
    first, second = (simulate(table, LATENCY, limits, **options) for _ in range(2))
    np.testing.assert_array_equal(first.e2e_ms, second.e2e_ms)
    assert repr(first.windows) == repr(second.windows)


@lawful
@given(tables(), limits_of_any_kind, st.floats(5.0, 3000.0))
def test_measuring_in_windows_does_not_change_the_run(table, limits, window_ms):
    whole = simulate(table, LATENCY, limits, kv_capacity_tokens=4000, window_ms=1e9)
    parts = simulate(table, LATENCY, limits, kv_capacity_tokens=4000, window_ms=window_ms)
    np.testing.assert_array_equal(whole.e2e_ms, parts.e2e_ms)
    assert len(parts.windows) >= len(whole.windows)


def test_first_come_first_served_emits_first_tokens_in_order_of_arrival():
    rng = np.random.default_rng(0)
    table = RequestTable.from_arrays(np.cumsum(rng.exponential(30, 200)), rng.integers(1, 800, 200), 20)
    result = simulate(table, LATENCY, Limits(8, token_budget=512))
    first_token_ms = table.arrival_ms + result.ttft_ms
    assert np.all(np.diff(first_token_ms) >= 0)


def test_shortest_prompt_first_lets_a_short_prompt_overtake():
    table = RequestTable.from_arrays([0.0, 1.0, 2.0], [1000, 1000, 10], 50)
    result = simulate(table, LATENCY, Limits(1, discipline="spf"))
    assert result.ttft_ms[2] < result.ttft_ms[1]


def test_fair_sharing_serves_a_light_user_before_the_backlog_of_a_heavy_one():
    table = RequestTable.from_arrays(np.arange(11.0), 500, 20, user=[0] * 10 + [1])
    fair, fcfs = (simulate(table, LATENCY, Limits(1), discipline=d) for d in ("fair", "fcfs"))
    assert fair.ttft_ms[10] < 0.3 * fcfs.ttft_ms[10]


def test_a_high_priority_request_preempts_a_full_batch():
    table = RequestTable.from_arrays([0.0, 0.0, 300.0], 100, [500, 500, 5], priority=[2, 1, 0])
    result = simulate(table, LATENCY, Limits(2, discipline="priority"))
    assert result.preemptions == 1
    assert result.ttft_ms[2] < 100.0
    assert result.finish_reason == ["length"] * 3


def test_low_priority_is_shed_before_the_others():
    priorities = np.tile([0, 1, 2], 40)
    table = RequestTable.from_arrays(np.arange(120.0), 500, 20, priority=priorities)
    result = simulate(table, LATENCY, Limits(2, max_queued_tokens=8000, discipline="priority"))
    refused = np.array(result.finish_reason) == "refused_on_arrival"
    assert refused[priorities == 2].mean() > refused[priorities == 1].mean()


def test_a_change_of_discipline_reorders_the_queue():
    table = RequestTable.from_arrays([0.0] * 6, [400, 900, 800, 700, 600, 500], 40)
    engine = SimulatedEngine(EngineConfig(latency=LATENCY), table)
    engine.set_limits(Limits(1))
    engine.run_until(100.0)
    engine.set_limits(Limits(1, discipline="spf"))
    engine.run_until(np.inf)
    first = engine.state.requests["first_ms"][:6]
    assert list(np.argsort(first)) == [0, 5, 4, 3, 2, 1]


def test_a_request_that_can_never_fit_fails_at_once():
    table = RequestTable.from_arrays([0.0, 0.0, 0.0], [5000, 100, 100], [10, 10, 3000])
    result = simulate(table, LATENCY, Limits(8), kv_capacity_tokens=4000, max_model_len=3050)
    assert result.finish_reason == ["failed", "length", "failed"]
    assert result.e2e_ms[0] == 0.0


def test_a_smaller_batch_size_pauses_running_requests_and_loses_none():
    table = RequestTable.from_arrays(np.zeros(8), 50, 200)
    engine = SimulatedEngine(EngineConfig(latency=LATENCY), table, record_steps=True)
    engine.set_limits(Limits(8))
    engine.run_until(500.0)
    steps_before = len(engine.step_log())
    engine.set_limits(Limits(2))
    assert engine.run_until(np.inf)
    assert engine.step_log()[steps_before:, 1].max() == 2
    assert np.all(engine.state.requests["generated"] == 200)
