"""The prefix cache: what it must never do, whatever is asked of it, and what it is worth."""

import math

import numpy as np
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from shared_prefixes import in_common

from batchpilot import SLO, Limits, RequestTable, SaturationParameters, simulate
from batchpilot.engines import EngineConfig, SimulatedEngine
from batchpilot.workloads.prefixes import Prefixes

LATENCY = SaturationParameters(p_max=12.0, k_b=10.0, k_s=0.01, tau_0=5.0, tau_b=0.02, tau_c=3e-4)
NEVER = 2**62


@st.composite
def tables(draw):
    rng = np.random.default_rng(draw(st.integers(0, 2**32 - 1)))
    n = draw(st.integers(1, 50))
    gap = draw(st.sampled_from([0.0, 20.0, 200.0]))
    prompts, outputs = rng.integers(1, 1200, n), rng.integers(1, 80, n)
    return RequestTable.from_arrays(
        np.cumsum(rng.exponential(gap, n)) if gap else np.zeros(n),
        prompts,
        outputs,
        estimated_output_tokens=rng.uniform(1, 80, n),
        user=rng.integers(0, 4, n),
        priority=rng.integers(0, 3, n),
        slos=SLO(1500.0, 80.0),
        concurrency=draw(st.sampled_from([0, 0, 4])),
        prefixes=in_common(prompts + outputs, draw(st.sampled_from([8, 16, 64])), rng),
    )


limits_of_any_kind = st.builds(
    Limits,
    batch_size=st.integers(1, 30),
    token_budget=st.one_of(st.none(), st.integers(1, 2000)),
    max_queued_tokens=st.one_of(st.none(), st.integers(0, 6000)),
    step_target_ms=st.one_of(st.none(), st.floats(0.5, 100.0)),
    ttft_guard=st.one_of(st.none(), st.floats(0.05, 3.0)),
    discipline=st.sampled_from(["fcfs", "sjf", "spf", "slo", "fair", "priority"]),
)
prefills = st.sampled_from(["chunked", "whole", "selective"])
kv_tokens = st.integers(1400, 6000)
block_sizes = st.sampled_from([16, 16, 5])
lawful = settings(max_examples=80, deadline=None, suppress_health_check=[HealthCheck.too_slow])


def idle_line(state):
    """Contents that nobody holds, oldest first, by way of their links; both directions must agree."""
    clock, line = state.clock[0], []
    olders, newers = (np.asarray(state.contents)[name].tolist() for name in ("older", "newer"))
    content, older = int(clock.idle_first), -1
    while content >= 0:
        assert olders[content] == older
        line.append(content)
        content, older = newers[content], content
    assert clock.idle_last == older
    return line


@lawful
@given(tables(), limits_of_any_kind, prefills, kv_tokens, block_sizes, st.lists(st.integers(0, 49), max_size=3))
def test_blocks_are_neither_lost_nor_freed_twice_and_shared_ones_are_counted(
    table, limits, prefill, kv, block_size, cancelled
):
    config = EngineConfig(LATENCY, kv_capacity_tokens=kv, block_size=block_size, prefill=prefill, prefix_cache=True)
    engine = SimulatedEngine(config, table)
    state, clock = engine.state, engine.state.clock[0]
    # Plain arrays, since fields of records are slow to look up.
    chains, requests, contents = (np.asarray(one) for one in (state.chains, state.requests, state.contents))
    engine.set_limits(limits)
    done = False
    while not done:
        done = engine.run_until(engine.now_ms + 25.0)
        for request in cancelled[:1]:
            engine.cancel(request % len(table))
            cancelled = cancelled[1:]
        if not clock.prefix_cache:
            continue
        held = np.zeros(len(contents), np.int64)
        cached = contents["holders"] >= 0
        known = contents["content"]
        for first, shared, hashed, blocks in zip(
            *(chains[name].tolist() for name in ("first", "shared", "hashed")),
            requests["blocks"].tolist(),
            strict=False,
        ):
            held[known[first : first + shared]] += 1
            assert shared <= blocks
            mine = cached[known[first : first + hashed]]
            assert np.all(mine[:-1] >= mine[1:]), "a block is cached without the one before it"
        numbers = np.unique(contents["content"][: chains["hashed"].sum()])
        np.testing.assert_array_equal(contents["holders"][numbers].clip(0), held[numbers])
        own = (requests["blocks"] - chains["shared"]).sum()
        assert clock.total_blocks - clock.free_blocks == own + np.count_nonzero(held)
        line = idle_line(state)
        assert sorted(line) == numbers[contents["holders"][numbers] == 0].tolist()
        assert len(line) == clock.n_idle <= clock.free_blocks
    assert clock.free_blocks == clock.total_blocks


@lawful
@given(tables(), limits_of_any_kind, prefills, kv_tokens)
def test_tokens_are_conserved_and_what_is_cached_is_not_computed(table, limits, prefill, kv):
    result = simulate(
        table, LATENCY, limits, kv_capacity_tokens=kv, prefill=prefill, prefix_cache=True, record_steps=True
    )
    finished = np.array(result.finish_reason) == "length"
    assert not np.any(np.array(result.finish_reason) == "unfinished")
    np.testing.assert_array_equal(result.generated_tokens[finished], table.output_tokens[finished])
    needed = (table.prompt_tokens + table.output_tokens - 1 - result.cached_tokens)[finished].sum()
    assert result.useful_tokens == needed
    assert result.computed_tokens == result.step_log[:, 2].sum()
    assert np.all(result.cached_tokens < table.prompt_tokens)
    assert sum(window.cached_prompt_tokens for window in result.windows) == result.cached_tokens.sum()
    if result.preemptions == 0:
        assert result.computed_tokens == needed


@lawful
@given(tables(), limits_of_any_kind, prefills, kv_tokens)
def test_requests_that_have_nothing_in_common_are_served_as_without_a_cache(table, limits, prefill, kv):
    alone = table.prefixes.apart(np.arange(len(table)))
    table = RequestTable(**{**table.__dict__, "prefixes": alone})
    with_cache, without = (
        simulate(table, LATENCY, limits, kv_capacity_tokens=kv, prefill=prefill, prefix_cache=cache, record_steps=True)
        for cache in (True, False)
    )
    if without.preemptions == 0:  # A preempted request finds its own blocks again.
        np.testing.assert_array_equal(with_cache.step_log, without.step_log)
        np.testing.assert_array_equal(with_cache.e2e_ms, without.e2e_ms)


@lawful
@given(tables(), limits_of_any_kind, st.sampled_from(["chunked", "whole"]), kv_tokens, block_sizes)
def test_calendars_give_the_same_numbers_with_a_cache(table, limits, prefill, kv, block_size):
    config = EngineConfig(
        LATENCY, kv_capacity_tokens=kv, block_size=block_size, prefill=prefill, prefix_cache=True, noise=0.1
    )
    logs = []
    for pause in (0, NEVER):
        engine = SimulatedEngine(config, table, record_steps=True)
        engine.state.clock.decoding_pause = pause
        engine.set_limits(limits)
        engine.run_until(math.inf)
        logs.append((engine.step_log(), engine.state.requests["finish_ms"].copy()))
    np.testing.assert_array_equal(logs[0][0], logs[1][0])
    np.testing.assert_array_equal(logs[0][1], logs[1][1])


def alike(n, prompt, shared, output=5, gap=10_000.0, **options):
    """Requests whose first `shared` tokens are the same."""
    rows = [[*range(shared // 16), *(1000 + 1000 * r + k for k in range((prompt - shared) // 16))] for r in range(n)]
    return RequestTable.from_arrays(
        gap * np.arange(n), prompt, output, prefixes=Prefixes.from_lists(rows, 16), **options
    )


def test_a_later_request_computes_only_what_it_does_not_share():
    table = alike(3, 640, 320)
    result = simulate(table, LATENCY, Limits(8), prefix_cache=True, record_steps=True)
    assert result.cached_tokens.tolist() == [0, 320, 320]
    assert result.prefix_hit_rate == pytest.approx(640 / 1920)
    prompt_steps = result.step_log[result.step_log[:, 2] > 1]
    assert prompt_steps[:, 2].tolist() == [640, 320, 320]
    assert prompt_steps[:, 3].tolist() == [0, 320, 320]
    assert result.ttft_ms[1] < 0.7 * result.ttft_ms[0]


def test_the_last_token_of_a_prompt_is_computed_even_if_all_is_cached():
    table = alike(2, 320, 320)
    result = simulate(table, LATENCY, Limits(8), prefix_cache=True, record_steps=True)
    assert result.cached_tokens.tolist() == [0, 304]
    assert result.finish_reason == ["length"] * 2


def test_a_request_finds_what_one_before_it_computes_in_the_same_moment():
    table = alike(8, 640, 624, gap=0.0)
    result = simulate(table, LATENCY, Limits(8, token_budget=160), prefix_cache=True)
    assert result.computed_tokens < 0.5 * simulate(table, LATENCY, Limits(8, token_budget=160)).computed_tokens


def test_idle_blocks_are_forgotten_before_anybody_is_preempted():
    table = alike(40, 160, 0, output=20, gap=400.0)
    result = simulate(table, LATENCY, Limits(4), kv_capacity_tokens=800, prefix_cache=True)
    assert result.preemptions == 0
    assert result.finish_reason == ["length"] * 40


def test_blocks_that_were_used_last_are_kept_longest():
    # Room for two prompts and a little: the third pushes the first out, unless the first was asked for again.
    rows = {name: list(range(100 * k, 100 * k + 40)) for k, name in enumerate("abc", 1)}

    def hits(order):
        prefixes = Prefixes.from_lists([rows[name] for name in order], 16)
        table = RequestTable.from_arrays(5000.0 * np.arange(len(order)), 656, 2, prefixes=prefixes)
        return simulate(table, LATENCY, Limits(1), kv_capacity_tokens=96 * 16, prefix_cache=True).cached_tokens > 600

    assert hits("abcb").tolist() == [False, False, False, True]
    assert hits("abca").tolist() == [False, False, False, False]
    assert hits("abaca").tolist() == [False, False, True, False, True]


def test_shared_blocks_leave_room_for_more_requests():
    table = alike(12, 512, 480, output=60, gap=1.0)
    with_cache, without = (
        simulate(table, LATENCY, Limits(12), kv_capacity_tokens=2400, prefix_cache=cache) for cache in (True, False)
    )
    assert max(w.running for w in with_cache.windows) > max(w.running for w in without.windows)
    assert with_cache.elapsed_ms < without.elapsed_ms


def test_the_guard_lets_in_a_long_prompt_that_is_cached_and_refuses_it_without():
    # Too long to be computed within the promise, but for the last tokens.
    table = alike(
        3, 12_000, 11_200, gap=30_000.0, slos=[SLO(math.inf, 1000.0), SLO(400.0, 1000.0)], slo_class=[0, 1, 1]
    )
    limits = Limits(8, ttft_guard=1.0)
    options = {"estimate": LATENCY}
    assert simulate(table, LATENCY, limits, **options).finish_reason == ["length", *["refused_by_guard"] * 2]
    cached = simulate(table, LATENCY, limits, prefix_cache=True, **options)
    assert cached.finish_reason == ["length"] * 3
    assert cached.slo_met.all()


def test_the_bound_on_queued_tokens_counts_what_is_to_be_computed():
    table = alike(9, 1600, 1520, output=400, gap=1.0)
    table = table.with_arrivals(np.concatenate([[0.0], 5000.0 + np.arange(8.0)]))
    limits = Limits(1, max_queued_tokens=700)
    without = simulate(table, LATENCY, limits)
    with_cache = simulate(table, LATENCY, limits, prefix_cache=True)
    assert without.count("refused_on_arrival") > 4
    assert with_cache.count("refused_on_arrival") == 0


def test_a_next_turn_finds_the_answer_of_the_one_before_it():
    turn = list(range(1, 41))
    table = RequestTable.from_arrays(
        [0.0, 60_000.0], [320, 720], [320, 10], prefixes=Prefixes.from_lists([turn, [*turn, 50]], 16)
    )
    result = simulate(table, LATENCY, Limits(4), prefix_cache=True)
    # The answer's last token was never computed on, so its block is not full.
    assert result.cached_tokens.tolist() == [0, 624]


def test_padded_batches_share_nothing_and_say_so():
    with pytest.raises(ValueError, match="prefix_cache is on in mode static"):
        EngineConfig(LATENCY, mode="static", prefix_cache=True)


def test_hashes_that_do_not_stand_for_all_before_them_are_refused():
    with pytest.raises(ValueError, match="follows two different ones"):
        Prefixes.from_lists([[1, 2], [3, 2]], 16)
