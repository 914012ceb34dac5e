"""Prefill and decode on replicas of their own: nothing is lost, leaked, or decoded before its KV has come."""

from __future__ import annotations

import math

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from batchpilot import SLO, Limits, RequestTable, SaturationParameters
from batchpilot.engines import EngineConfig
from batchpilot.fleet import Fault, Fleet, Link, ReplicaSpec, Router, simulate_fleet
from batchpilot.fleet.scalers import QueueAndUse

LATENCY = SaturationParameters(p_max=12.0, k_b=10.0, k_s=0.008, tau_0=5.0, tau_b=0.02, tau_c=3e-4)
LIMITS = Limits(16, 512)
LINK = Link(10.0, 131_072.0, 2.0)


def table(n: int = 60, gap_ms: float = 40.0, seed: int = 0) -> RequestTable:
    rng = np.random.default_rng(seed)
    return RequestTable.from_arrays(
        np.cumsum(rng.exponential(gap_ms, n)), rng.integers(10, 500, n), rng.integers(1, 60, n), slos=SLO(1000.0, 60.0)
    )


def of_role(role: str, count: int = 1, kv_tokens: int = 6000, limits: Limits = LIMITS) -> ReplicaSpec:
    engine = EngineConfig(LATENCY, estimate=LATENCY, kv_capacity_tokens=kv_tokens)
    return ReplicaSpec(engine, limits, name=role, role=role, count=count, startup_s=1.0)


def step_ms(requests: int, tokens: int, context: int) -> float:
    return float(LATENCY.predict(requests, tokens, context))


def free_blocks(fleet: Fleet) -> list[tuple[int, int]]:
    clock = fleet.replicas.state.clock
    alive = [i for i in range(len(fleet.replicas)) if fleet.replicas.views[i].dead == 0]
    return [(int(clock[i].free_blocks), int(clock[i].total_blocks)) for i in alive]


def test_one_request_is_prefilled_moved_and_decoded():
    requests = RequestTable.from_arrays([0.0], [300], [3], slos=SLO(1e5, 1e5))
    result = simulate_fleet(requests, [of_role("prefill"), of_role("decode")], link=LINK)
    prefill, moving = step_ms(1, 300, 0), 300 * LINK.ms_per_token + 2.0
    assert LINK.ms_per_token == pytest.approx(0.0131072)
    assert result.served.ttft_ms[0] == pytest.approx(prefill)
    assert result.handover_ms[0] == pytest.approx(moving)
    decode = step_ms(1, 1, 300) + step_ms(1, 1, 301)
    assert result.served.e2e_ms[0] == pytest.approx(prefill + moving + decode)
    assert result.served.tpot_ms[0] == pytest.approx((moving + decode) / 2)
    assert result.replica.tolist() == [1]


def test_a_link_moves_one_request_at_a_time_at_either_end():
    requests = RequestTable.from_arrays([0.0, 0.0], [200, 200], [2, 2], slos=SLO(1e5, 1e5))
    wire = 200 * LINK.ms_per_token
    for pools in ([of_role("prefill", 2), of_role("decode")], [of_role("prefill"), of_role("decode", 2)]):
        result = simulate_fleet(requests, pools, "round-robin", link=LINK)
        assert sorted(result.handover_ms) == pytest.approx([wire + 2.0, 2 * wire + 2.0])
    apart = simulate_fleet(requests, [of_role("prefill", 2), of_role("decode", 2)], "round-robin", link=LINK)
    assert apart.handover_ms.tolist() == pytest.approx([wire + 2.0] * 2)


def test_a_full_decoder_makes_kv_wait_where_it_was_made_and_prompts_behind_it():
    requests = RequestTable.from_arrays([0.0, 1.0, 2.0], [320] * 3, [30] * 3, slos=SLO(1e5, 1e5))
    pools = [of_role("prefill", kv_tokens=640), of_role("decode", kv_tokens=368)]
    fleet = Fleet(requests, pools, Router(), link=LINK)
    fleet.run_until(step_ms(1, 320, 0) * 3 + 100.0)
    assert fleet.replicas.state.clock[0].free_blocks == 0  # the KV of the second and of the third, whose prompt waited
    fleet.run_until(math.inf)
    result = fleet.result()
    assert result.served.finish_reason == ["length"] * 3
    # The third prompt begins when the first decoding has made room for the second's KV to leave.
    assert result.served.ttft_ms[2] > result.handover_ms[0] + step_ms(1, 320, 0)
    ends = requests.arrival_ms + result.served.e2e_ms
    first = requests.arrival_ms + result.served.ttft_ms
    assert first[1] + result.handover_ms[1] > ends[0]
    assert all(free == total for free, total in free_blocks(fleet))


@settings(max_examples=30, deadline=None)
@given(
    seed=st.integers(0, 1000),
    prefills=st.integers(1, 3),
    decoders=st.integers(1, 3),
    rule=st.sampled_from(["round-robin", "least-tokens", "power-of-two"]),
    poll_ms=st.sampled_from([0.0, 300.0]),
    kv_tokens=st.sampled_from([1120, 2000, 6000]),
    bandwidth=st.sampled_from([0.2, 5.0, math.inf]),
    batch=st.sampled_from([1, 4, 16]),
    faults=st.lists(
        st.tuples(
            st.floats(0, 3000), st.integers(0, 5), st.sampled_from(["dies", "hangs", "slows"]), st.floats(1, 2000)
        ),
        max_size=3,
    ),
    retries=st.integers(0, 2),
)
def test_nothing_is_lost_leaked_or_decoded_too_soon(
    seed, prefills, decoders, rule, poll_ms, kv_tokens, bandwidth, batch, faults, retries
):
    requests = table(40, 30.0, seed)
    link = Link(bandwidth, 131_072.0, 1.0)
    limits = LIMITS.replace(batch_size=batch)
    fleet = Fleet(
        requests,
        [of_role("prefill", prefills, kv_tokens), of_role("decode", decoders, kv_tokens, limits)],
        Router(rule, poll_ms=poll_ms, retries=retries),
        link=link,
        faults=[Fault(at, i % (prefills + decoders), kind, lasting) for at, i, kind, lasting in faults],
        health_ms=200.0,
        seed=seed,
    )
    fleet.run_until(math.inf)
    result = fleet.result()
    served = result.served
    finished = served.finish_code == 1
    assert served.count("length") + served.count("failed") == len(requests)
    assert np.array_equal(served.generated_tokens[finished], requests.output_tokens[finished])
    if not faults:
        assert finished.all()
    moved = ~np.isnan(result.handover_ms)
    assert (moved[finished] == (requests.output_tokens[finished] > 1)).all()
    wire = requests.prompt_tokens * link.ms_per_token + 1.0
    assert (result.handover_ms[moved] >= wire[moved] - 1e-9).all()
    decoding = served.e2e_ms - served.ttft_ms - result.handover_ms
    least = (requests.output_tokens - 1) * step_ms(1, 1, 0)
    both = moved & finished
    assert (decoding[both] >= least[both] - 1e-6).all()
    assert all(free == total for free, total in free_blocks(fleet))
    assert not fleet.replicas.lines[:, :, 2].any()


@pytest.mark.parametrize("piece_ms", [170.0, 2500.0])
def test_pools_in_pieces_are_the_run(piece_ms):
    def begun() -> Fleet:
        faults = [Fault(1234.5, 0, "hangs", 900.0), Fault(2000.0, 3, "dies", 1500.0), Fault(2100.0, 1, "slows", 500.0)]
        router = Router("least-tokens", poll_ms=300.0)
        pools = [of_role("prefill", 2, 2000), of_role("decode", 2, 2000)]
        return Fleet(table(150, 20.0), pools, router, link=LINK, scaler=QueueAndUse(interval_s=1.0), faults=faults)

    whole, pieces = begun(), begun()
    whole.run_until(14_000.0)
    for end in [*np.arange(piece_ms, 14_000.0, piece_ms), 14_000.0]:
        pieces.run_until(float(end))
    a, b = whole.result(), pieces.result()
    np.testing.assert_array_equal(a.replica, b.replica)
    np.testing.assert_allclose(a.served.e2e_ms, b.served.e2e_ms)
    np.testing.assert_allclose(a.handover_ms, b.handover_ms)


def test_a_prefill_replica_that_dies_takes_with_it_what_it_had_not_handed_over():
    requests = RequestTable.from_arrays([0.0, 1.0], [400, 400], [50, 50], slos=SLO(1e5, 1e5))
    pools = [of_role("prefill", 2), of_role("decode")]
    slow = Link(0.1, 131_072.0)
    first_ms = step_ms(1, 400, 0)
    struck = simulate_fleet(requests, pools, "round-robin", link=slow, faults=[Fault(first_ms + 100.0, 0)])
    assert struck.served.finish_reason == ["failed", "length"]
    assert struck.served.generated_tokens.tolist() == [1, 50]
    later = simulate_fleet(requests, pools, "round-robin", link=slow, faults=[Fault(first_ms + 600.0, 0)])
    assert later.served.finish_reason == ["length", "length"]


def test_kv_bound_for_a_decoder_that_dies_goes_to_another_unless_nobody_tries_again():
    requests = RequestTable.from_arrays([0.0], [400], [50], slos=SLO(1e5, 1e5))
    pools, slow = [of_role("prefill"), of_role("decode", 2)], Link(0.1, 131_072.0)
    fault = [Fault(step_ms(1, 400, 0) + 100.0, 1)]
    moved = simulate_fleet(requests, pools, Router("round-robin"), link=slow, faults=fault, health_ms=1.0)
    assert moved.served.finish_reason == ["length"]
    assert moved.replica.tolist() == [2]
    stayed = simulate_fleet(requests, pools, Router("round-robin", retries=0), link=slow, faults=fault)
    assert stayed.served.finish_reason == ["failed"]


def test_a_draining_replica_finishes_what_it_has_promised():
    requests = table(80, 15.0)
    for first, second in (("prefill", "decode"), ("decode", "prefill")):
        fleet = Fleet(
            requests,
            [of_role(first, 3), of_role(second, 2)],
            Router("round-robin"),
            link=Link(0.5, 131_072.0),
            scaler=QueueAndUse(interval_s=1e6),
        )
        fleet.run_until(700.0)
        fleet.scale(1)
        assert fleet.replicas.views["draining"].sum() == 2
        fleet.run_until(60_000.0)
        result = fleet.result()
        assert result.served.count("length") == 80
        assert sum(span.until_ms < 59_000.0 for span in fleet.replicas.spans) == 2
        assert all(free == total for free, total in free_blocks(fleet))


def test_whole_replicas_beside_pools_keep_what_they_prefill():
    requests = table(60, 20.0)
    fleet = [of_role("both"), of_role("prefill"), of_role("decode")]
    result = simulate_fleet(requests, fleet, "round-robin", link=LINK)
    assert result.served.count("length") == 60
    stayed = result.replica == 0
    assert np.isnan(result.handover_ms[stayed]).all()
    assert 25 <= stayed.sum() <= 35


def test_an_answer_that_no_decoder_holds_fails_after_its_first_token():
    requests = RequestTable.from_arrays([0.0], [300], [400], slos=SLO(1e5, 1e5))
    result = simulate_fleet(requests, [of_role("prefill"), of_role("decode", kv_tokens=640)], link=LINK)
    assert result.served.finish_reason == ["failed"]
    assert result.served.generated_tokens.tolist() == [1]


@pytest.mark.parametrize(
    ("make", "said"),
    [
        (lambda: simulate_fleet(table(3), [of_role("prefill"), of_role("decode")]), "no link to move KV"),
        (lambda: simulate_fleet(table(3), of_role("prefill"), link=LINK), "no kind of replica has role 'decode'"),
        (lambda: of_role("prefil"), "prefill"),
        (lambda: Link(0.0, 1.0), "bandwidth_gb_per_s of a link is 0.0"),
        (lambda: Link(1.0, -1.0), "kv_bytes_per_token of a link is -1.0"),
        (
            lambda: ReplicaSpec(EngineConfig(LATENCY, mode="static"), LIMITS, role="decode"),
            "a decode replica batches continuously",
        ),
    ],
)
def test_what_pools_cannot_be_is_refused(make, said):
    with pytest.raises(ValueError, match=said):
        make()
