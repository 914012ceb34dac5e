"""Conversations in the simulation: when turns come, what breaks off, what is counted, what laws hold."""

import copy

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from batchpilot import SLO, Limits, RequestTable, SaturationParameters, simulate
from batchpilot.engines import SimulatedEngine
from batchpilot.engines.simulated.config import EngineConfig
from batchpilot.workloads.prefixes import Prefixes
from batchpilot.workloads.turns import ALONE, LAST, Turns

LATENCY = SaturationParameters(p_max=12.0, k_b=2.0, k_s=0.02, tau_0=4.0, tau_b=0.05, tau_c=4e-4)
THINK_MS = 700.0


def talk(conversations=6, turns=5, *, apart_ms=50.0, think_ms=THINK_MS, **columns):
    session = np.repeat(np.arange(conversations), turns)
    turn = np.tile(np.arange(turns), conversations)
    return RequestTable.from_arrays(
        session * apart_ms + turn * think_ms,
        100 + 60 * turn,
        20,
        turns=Turns(session, np.full(len(session), think_ms)),
        **columns,
    )


def chains(table):
    following = table.turns.following()
    return [(row, later) for row, later in enumerate(following) if later != LAST]


def test_a_turn_comes_its_think_time_after_the_answer_to_the_one_before():
    table = talk()
    result = simulate(table, LATENCY, Limits(4, token_budget=256))
    came, ended = result.requests.arrival_ms, result.requests.arrival_ms + result.e2e_ms
    assert result.count("length") == len(table)
    for row, later in chains(table):
        np.testing.assert_allclose(came[later], ended[row] + THINK_MS, rtol=1e-12)


def test_a_slow_server_is_asked_later_and_not_more_at_a_time():
    slow = SaturationParameters(p_max=1.0, k_b=2.0, k_s=0.02, tau_0=400.0, tau_b=0.05, tau_c=4e-4)
    fast, late = (simulate(talk(), latency, Limits(4, token_budget=256)) for latency in (LATENCY, slow))
    assert late.requests.arrival_ms.max() > 3 * fast.requests.arrival_ms.max()
    assert max(window.running + window.queue for window in late.windows) <= 6


def test_a_turn_that_is_refused_takes_the_later_ones_with_it_and_no_window_hears_of_them():
    table = talk(slos=SLO(ttft_ms=30.0, tpot_ms=1000.0))
    result = simulate(table, LATENCY, Limits(1, ttft_guard=1.0))
    refused = result.count("refused_by_guard")
    asked = np.isfinite(result.requests.arrival_ms)
    assert 0 < refused < len(table)
    assert sum(window.arrivals for window in result.windows) == asked.sum() < len(table)
    for row, later in chains(table):
        if result.finish_reason[row] == "refused_by_guard":
            assert result.finish_reason[later] == "refused_by_guard"
            assert not asked[later]
    # What was never asked is lost all the same.
    assert result.slo_attainment == pytest.approx(result.slo_met.sum() / len(table))


def test_turns_that_no_run_came_to_are_offered_all_the_same_so_that_a_slow_server_gains_nothing():
    result = simulate(talk(), LATENCY, Limits(4, token_budget=256), horizon_ms=1500.0)
    asked = np.isfinite(result.requests.arrival_ms)
    assert 6 <= asked.sum() < 30
    assert result.goodput_fraction == pytest.approx(result.generated_tokens[result.slo_met].sum() / (20 * 30))


@pytest.mark.parametrize("until_ms", [0.0, 200.0, 900.0])
def test_a_turn_that_is_cancelled_ahead_never_comes_nor_do_those_behind_it(until_ms):
    table = talk()
    engine = SimulatedEngine(EngineConfig(latency=LATENCY), table)
    engine.set_limits(Limits(4, token_budget=256))
    engine.run_until(until_ms)
    fourth, fifth = np.flatnonzero(table.turns.session == 2)[3:]
    assert engine.cancel(fourth)
    assert not engine.cancel(fifth), "it ended with the one before"
    assert engine.run_until(np.inf)
    reasons = engine.state.requests["reason"]
    assert (reasons == 5).sum() == 2
    assert (reasons == 1).sum() == len(table) - 2


def test_a_copy_goes_on_as_the_original():
    engine = SimulatedEngine(EngineConfig(latency=LATENCY, kv_capacity_tokens=2000), talk())
    engine.set_limits(Limits(4, token_budget=128))
    engine.run_until(1000.0)
    other = copy.deepcopy(engine)
    for one in (engine, other):
        one.run_until(np.inf)
    np.testing.assert_array_equal(engine.state.requests["finish_ms"], other.state.requests["finish_ms"])


def test_the_next_prompt_finds_question_and_answer_in_the_prefix_cache():
    table = talk(1, 2)
    hashes = [list(range(7)), list(range(10))]
    table = RequestTable.from_arrays(
        table.arrival_ms, [100, 160], 20, turns=table.turns, prefixes=Prefixes.from_lists(hashes, 16)
    )
    result = simulate(table, LATENCY, Limits(4), prefix_cache=True)
    # 100 tokens and an answer of 20, whose last token is never computed on: seven whole blocks.
    assert result.cached_tokens.tolist() == [0, 112]


@settings(max_examples=40, deadline=None)
@given(
    seed=st.integers(0, 10_000),
    batch_size=st.integers(1, 12),
    guard=st.one_of(st.none(), st.floats(0.2, 2.0)),
    queued=st.one_of(st.none(), st.integers(100, 3000)),
    kv_tokens=st.integers(1200, 5000),
    window_ms=st.sampled_from([50.0, 1000.0, 1e9]),
)
def test_every_turn_ends_once_and_comes_after_the_answer_to_the_one_before(
    seed, batch_size, guard, queued, kv_tokens, window_ms
):
    rng = np.random.default_rng(seed)
    n = 40
    table = RequestTable.from_arrays(
        np.cumsum(rng.exponential(30.0, n)),
        rng.integers(1, 900, n),
        rng.integers(1, 60, n),
        turns=Turns(rng.integers(ALONE, 8, n), rng.choice([0.0, 100.0], n)),
    )
    limits = Limits(batch_size, 256, queued, ttft_guard=guard)
    result = simulate(table, LATENCY, limits, kv_capacity_tokens=kv_tokens, window_ms=window_ms)
    assert result.count("unfinished") == 0
    came, ended = result.requests.arrival_ms, result.requests.arrival_ms + result.e2e_ms
    for row, later in chains(table):
        if np.isfinite(came[later]):
            assert result.finish_reason[row] == "length"
            assert came[later] == pytest.approx(ended[row] + table.turns.think_ms[later])
        else:
            assert result.finish_reason[later] == result.finish_reason[row] != "length"
    assert sum(window.arrivals for window in result.windows) == np.isfinite(came).sum()
    assert sum(window.generated_tokens for window in result.windows) == result.total_generated_tokens
