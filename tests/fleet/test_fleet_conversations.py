"""Conversations in a fleet: the next turn comes to the router after the answer to the one before, wherever that was."""

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from batchpilot import SLO, Limits, RequestTable, SaturationParameters, simulate
from batchpilot.engines import EngineConfig
from batchpilot.fleet import Fault, RateLimit, ReplicaSpec, Router, simulate_fleet
from batchpilot.fleet.routers import RULES
from batchpilot.fleet.scalers import Predictive, QueueAndUse
from batchpilot.fleet.simulation import Fleet
from batchpilot.fleet.spec import Link
from batchpilot.workloads.prefixes import Prefixes
from batchpilot.workloads.turns import ALONE, LAST, Turns

LATENCY = SaturationParameters(p_max=12.0, k_b=2.0, k_s=0.02, tau_0=4.0, tau_b=0.05, tau_c=4e-4)
LIMITS = Limits(8, token_budget=256)


def talk(n=60, sessions=12, seed=0, gap_ms=30.0, **columns):
    rng = np.random.default_rng(seed)
    return RequestTable.from_arrays(
        np.cumsum(rng.exponential(gap_ms, n)),
        rng.integers(1, 500, n),
        rng.integers(1, 60, n),
        turns=Turns(rng.integers(ALONE, sessions, n), rng.choice([0.0, 3.0, 400.0], n)),
        slos=SLO(600.0, 60.0),
        **columns,
    )


def whole_history(conversations=8, turns=6, think_ms=200.0, block_size=16):
    """Conversations whose prompts are all that was said before, and 48 tokens."""
    rows = [(c, t) for c in range(conversations) for t in range(turns)]
    prompts = [64 + 80 * t for _, t in rows]
    hashes = [[1000 * c + b for b in range((64 + 80 * t + 32) // block_size)] for c, t in rows]
    return RequestTable.from_arrays(
        [40.0 * c + think_ms * t for c, t in rows],
        prompts,
        32,
        turns=Turns(np.array([c for c, _ in rows]), np.full(len(rows), think_ms)),
        prefixes=Prefixes.from_lists(hashes, block_size),
    )


def replica(count=1, limits=LIMITS, **engine):
    return ReplicaSpec(
        EngineConfig(LATENCY, **{"estimate": LATENCY, "kv_capacity_tokens": 6000} | engine), limits, count=count
    )


def chains(table):
    return [(row, later) for row, later in enumerate(table.turns.following()) if later != LAST]


def assert_turns_follow_answers(result, think_ms):
    served = result.served
    came, ended = served.requests.arrival_ms, served.requests.arrival_ms + served.e2e_ms
    for row, later in chains(served.requests):
        if served.finish_reason[row] == "length":
            assert came[later] == pytest.approx(ended[row] + think_ms[later], abs=1e-6)
        else:
            assert served.finish_reason[later] == served.finish_reason[row]
            assert np.isnan(came[later])
            assert result.replica[later] == -1


@pytest.mark.parametrize("engine", [{}, {"front_ms": 7.0}, {"prefix_cache": True}, {"mode": "static"}])
@pytest.mark.parametrize("limits", [LIMITS, Limits(4, 128, 2000, ttft_guard=1.0), Limits(3, 256, max_wait_ms=20.0)])
@pytest.mark.parametrize(("rule", "poll_ms"), [("least-tokens", 0.0), ("prefix", 100.0)])
def test_a_fleet_of_one_with_conversations_is_the_engine_to_the_last_bit(rule, poll_ms, limits, engine):
    table = whole_history() if "prefix_cache" in engine else talk()
    alone = simulate(table, LATENCY, limits, **{"estimate": LATENCY, "kv_capacity_tokens": 6000} | engine)
    result = simulate_fleet(table, replica(limits=limits, **engine), Router(rule, poll_ms=poll_ms))
    for column in ("finish_code", "generated_tokens", "ttft_ms", "tpot_ms", "e2e_ms", "slo_met", "cached_tokens"):
        np.testing.assert_array_equal(getattr(result.served, column), getattr(alone, column))
    np.testing.assert_array_equal(result.served.requests.arrival_ms, alone.requests.arrival_ms)
    assert result.served.goodput_fraction == alone.goodput_fraction
    assert alone.count("length") >= 9


@settings(max_examples=30, deadline=None)
@given(
    seed=st.integers(0, 10_000),
    rule=st.sampled_from(sorted(RULES)),
    poll_ms=st.sampled_from([0.0, 50.0, 1000.0]),
    guard=st.sampled_from([None, 0.5, 1.5]),
    retries=st.integers(0, 2),
    faults=st.lists(
        st.tuples(
            st.floats(0, 3000), st.integers(0, 1), st.sampled_from(["dies", "hangs", "slows"]), st.floats(1, 2000)
        ),
        max_size=3,
    ),
)
def test_two_replicas_answer_every_turn_once_and_in_order_whatever_befalls_them(
    seed, rule, poll_ms, guard, retries, faults
):
    table = talk(seed=seed, user=np.arange(60) % 3)
    result = simulate_fleet(
        table,
        replica(2, LIMITS.replace(ttft_guard=guard)),
        Router(rule, poll_ms=poll_ms, retries=retries),
        faults=[Fault(at_ms, i, kind, lasting_ms) for at_ms, i, kind, lasting_ms in faults],
        health_ms=200.0,
        rate_limits={0: RateLimit(3000, 3000)},
        seed=seed,
    )
    served = result.served
    assert served.count("unfinished") == 0
    answered = served.finish_code == 1
    np.testing.assert_array_equal(served.generated_tokens[answered], table.output_tokens[answered])
    assert_turns_follow_answers(result, table.turns.think_ms)


def test_no_answer_is_known_before_it_is_given():
    """Each replica serves one at a time; the second turn of the short talk comes while the long answer is under way."""
    turns = Turns(np.array([0, 1, 1, ALONE]), np.array([0.0, 0.0, 10.0, 0.0]))
    table = RequestTable.from_arrays([0.0, 1.0, 2.0, 5000.0], [10, 10, 10, 10], [400, 5, 5, 5], turns=turns)
    result = simulate_fleet(table, replica(2, Limits(1)), "least-requests")
    assert result.replica.tolist()[:3] == [0, 1, 1]
    assert result.served.requests.arrival_ms[2] + result.served.e2e_ms[2] < result.served.e2e_ms[0]


def test_the_prefix_router_sends_a_turn_where_its_conversation_is():
    table = whole_history()
    spec = replica(3, prefix_cache=True)
    where = {}
    for rule in ("prefix", "round-robin"):
        result = simulate_fleet(table, spec, Router(rule, poll_ms=50.0))
        moved = [result.replica[row] != result.replica[later] for row, later in chains(table)]
        where[rule] = (np.mean(moved), result.prefix_hit_rate)
    assert where["prefix"][0] == 0
    assert where["round-robin"][0] > 0.3
    # All but the 48 tokens that are new in a turn, and the last of the answer, which is never computed on.
    assert where["prefix"][1] > 0.6 > where["round-robin"][1]


def test_a_turn_that_its_users_bucket_refuses_ends_the_conversation():
    turns = Turns(np.array([0, 0, 0]), np.full(3, 10.0))
    table = RequestTable.from_arrays([0.0, 1.0, 2.0], [90, 90, 90], [10, 10, 10], turns=turns)
    result = simulate_fleet(table, replica(), rate_limits=RateLimit(1.0, 100.0))
    assert result.served.finish_reason == ["length", "refused_on_arrival", "refused_on_arrival"]
    assert result.rate_limited.tolist() == [False, True, False]
    assert result.served.slo_attainment == pytest.approx(1 / 3)


@pytest.mark.parametrize("retries", [0, 2])
def test_a_replica_that_dies_ends_the_conversations_that_it_was_answering(retries):
    turns = Turns(np.array([0, 1, 0, 1]), np.full(4, 10.0))
    table = RequestTable.from_arrays([0.0, 1.0, 2.0, 3.0], [50] * 4, [50] * 4, turns=turns)
    result = simulate_fleet(
        table,
        replica(2),
        Router("round-robin", retries=retries),
        faults=[Fault(100.0, 0)],
        health_ms=1.0,
    )
    assert result.served.finish_reason == ["failed", "length", "failed", "length"]


@pytest.mark.parametrize("scaler", [QueueAndUse(interval_s=1.0), Predictive(2000.0, ahead_s=1.0, interval_s=1.0)])
def test_a_fleet_that_scales_under_conversations_in_pieces_is_the_whole_run(scaler):
    def begun():
        import copy

        router = Router("least-tokens", poll_ms=300.0)
        spec = ReplicaSpec(EngineConfig(LATENCY, estimate=LATENCY, kv_capacity_tokens=6000), LIMITS, startup_s=1.0)
        return Fleet(talk(200, 30, gap_ms=8.0), [spec], router, scaler=copy.deepcopy(scaler), bounds=(1, 4))

    whole, pieces = begun(), begun()
    whole.run_until(20_000.0)
    for end_ms in np.arange(700.0, 20_700.0, 700.0):
        pieces.run_until(min(float(end_ms), 20_000.0))
    a, b = whole.result(), pieces.result()
    assert max(moment.existing for moment in whole.moments) > 1
    np.testing.assert_array_equal(a.replica, b.replica)
    np.testing.assert_allclose(a.served.e2e_ms, b.served.e2e_ms)
    assert_turns_follow_answers(a, talk(200, 30, gap_ms=8.0).turns.think_ms)


LINK = Link(10.0, 131_072.0, 2.0)


def pools(prefilling=1, decoding=1, limits=LIMITS, whole=0, **engine):
    roles = {"prefill": prefilling, "decode": decoding, "both": whole}
    config = EngineConfig(LATENCY, **{"estimate": LATENCY, "kv_capacity_tokens": 6000} | engine)
    return [ReplicaSpec(config, limits, count=count, role=role, name=role) for role, count in roles.items() if count]


def test_in_pools_turns_that_are_alone_are_the_requests_that_they_were():
    """Where nobody has a second turn, conversations change nothing."""
    table = talk(40)
    alone = RequestTable.from_arrays(
        table.arrival_ms, table.prompt_tokens, table.output_tokens, slos=table.slos, turns=Turns.none(40)
    )
    text = RequestTable.from_arrays(table.arrival_ms, table.prompt_tokens, table.output_tokens, slos=table.slos)
    told, plain = (simulate_fleet(one, pools(2, 2), "least-tokens", link=LINK) for one in (alone, text))
    for column in ("finish_code", "generated_tokens", "ttft_ms", "tpot_ms", "e2e_ms"):
        np.testing.assert_allclose(getattr(told.served, column), getattr(plain.served, column))


@pytest.mark.parametrize(("whole", "engine"), [(0, {}), (0, {"prefix_cache": True}), (1, {})])
def test_in_pools_the_next_turn_comes_after_the_answer_of_whoever_decodes(whole, engine):
    table = whole_history()
    result = simulate_fleet(table, pools(2, 1, whole=whole, **engine), Router("least-tokens", poll_ms=50.0), link=LINK)
    assert result.served.count("length") == len(table)
    assert_turns_follow_answers(result, table.turns.think_ms)
    if engine:
        assert result.prefix_hit_rate > 0.3


@settings(max_examples=25, deadline=None)
@given(
    seed=st.integers(0, 10_000),
    rule=st.sampled_from(["least-tokens", "round-robin", "prefix"]),
    poll_ms=st.sampled_from([0.0, 50.0]),
    guard=st.sampled_from([None, 0.5]),
    retries=st.integers(0, 2),
    faults=st.lists(
        st.tuples(
            st.floats(0, 3000), st.integers(0, 3), st.sampled_from(["dies", "hangs", "slows"]), st.floats(1, 2000)
        ),
        max_size=3,
    ),
)
def test_pools_answer_every_turn_once_and_in_order_whatever_befalls_them(seed, rule, poll_ms, guard, retries, faults):
    table = talk(40, 8, seed=seed)
    result = simulate_fleet(
        table,
        pools(2, 2, LIMITS.replace(ttft_guard=guard)),
        Router(rule, poll_ms=poll_ms, retries=retries),
        faults=[Fault(at_ms, i, kind, lasting_ms) for at_ms, i, kind, lasting_ms in faults],
        health_ms=200.0,
        link=LINK,
        seed=seed,
    )
    served = result.served
    assert served.count("unfinished") == 0
    answered = served.finish_code == 1
    np.testing.assert_array_equal(served.generated_tokens[answered], table.output_tokens[answered])
    assert_turns_follow_answers(result, table.turns.think_ms)


def test_a_pool_without_a_decoder_that_is_large_enough_ends_the_conversation():
    turns = Turns(np.array([0, 0]), np.full(2, 10.0))
    table = RequestTable.from_arrays([0.0, 1.0], [300, 300], [50, 50], turns=turns)
    large, small = pools()
    tiny = ReplicaSpec(EngineConfig(LATENCY, kv_capacity_tokens=160), LIMITS, role="decode", name="tiny")
    result = simulate_fleet(table, [large, tiny], link=LINK)
    assert result.served.finish_reason == ["failed", "failed"]
    assert simulate_fleet(table, [large, small], link=LINK).served.finish_reason == ["length", "length"]
