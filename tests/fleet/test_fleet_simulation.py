"""A fleet of one is the engine itself; of many it loses nobody, whatever befalls it."""

from __future__ import annotations

import math

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from batchpilot import SLO, Limits, RequestTable, SaturationParameters, simulate
from batchpilot.engines import EngineConfig
from batchpilot.fleet import Fault, Fleet, RateLimit, ReplicaSpec, Router, simulate_fleet
from batchpilot.fleet.routers import RULES
from batchpilot.fleet.scalers import QueueAndUse
from batchpilot.tuners import make_tuner

LATENCY = SaturationParameters(p_max=12.0, k_b=10.0, k_s=0.008, tau_0=5.0, tau_b=0.02, tau_c=3e-4)
LIMITS = Limits(16, 512)


def table(n: int = 80, gap_ms: float = 40.0, seed: int = 0, users: int = 1) -> RequestTable:
    rng = np.random.default_rng(seed)
    return RequestTable.from_arrays(
        np.cumsum(rng.exponential(gap_ms, n)),
        rng.integers(10, 500, n),
        rng.integers(1, 60, n),
        slos=SLO(1000.0, 60.0),
        user=rng.integers(0, users, n),
    )


def replica(count: int = 1, limits: Limits = LIMITS, **changes: object) -> ReplicaSpec:
    engine = EngineConfig(LATENCY, estimate=LATENCY, kv_capacity_tokens=6000)
    return ReplicaSpec(engine, limits, count=count, **{"startup_s": 1.0, **changes})  # type: ignore[arg-type]


@pytest.mark.parametrize("rule", RULES)
@pytest.mark.parametrize("poll_ms", [0.0, 300.0])
def test_a_fleet_of_one_is_the_engine(rule, poll_ms):
    requests, limits = table(), LIMITS.replace(ttft_guard=1.0, max_queued_tokens=2000)
    alone = simulate(requests, LATENCY, limits, estimate=LATENCY, kv_capacity_tokens=6000)
    fleet = simulate_fleet(requests, replica(limits=limits), Router(rule, poll_ms=poll_ms)).served
    assert np.array_equal(fleet.finish_code, alone.finish_code)
    np.testing.assert_allclose(fleet.e2e_ms, alone.e2e_ms)
    np.testing.assert_allclose(fleet.ttft_ms, alone.ttft_ms)


def test_a_tuner_a_replica_is_that_of_one_engine():
    requests = table(300, 15.0)
    alone = simulate(requests, LATENCY, make_tuner("aimd"), estimate=LATENCY, kv_capacity_tokens=6000)
    spec = replica(limits=lambda _: make_tuner("aimd"))  # type: ignore[arg-type]
    fleet = simulate_fleet(requests, spec, "round-robin").served
    assert abs(fleet.goodput_fraction - alone.goodput_fraction) < 0.02


@settings(max_examples=25, deadline=None)
@given(
    seed=st.integers(0, 1000),
    count=st.integers(1, 4),
    rule=st.sampled_from(sorted(RULES)),
    poll_ms=st.sampled_from([0.0, 100.0, 1000.0]),
    faults=st.lists(
        st.tuples(
            st.floats(0, 3000),
            st.integers(0, 3),
            st.sampled_from(["dies", "hangs", "slows"]),
            st.floats(1, 2000),
        ),
        max_size=4,
    ),
)
def test_every_request_ends_exactly_once(seed, count, rule, poll_ms, faults):
    requests = table(60, 30.0, seed, users=3)
    befalls = [Fault(at, i % count, kind, lasting) for at, i, kind, lasting in faults]
    result = simulate_fleet(
        requests,
        replica(count),
        Router(rule, poll_ms=poll_ms, retries=2),
        faults=befalls,
        health_ms=200.0,
        rate_limits={0: RateLimit(3000, 3000)},
        seed=seed,
    )
    reasons = [result.served.count(reason) for reason in ("length", "refused_on_arrival", "refused_by_guard", "failed")]
    assert sum(reasons) == len(requests)
    finished = result.served.finish_code == 1
    assert np.array_equal(result.served.generated_tokens[finished], requests.output_tokens[finished])
    assert (result.served.e2e_ms[np.isfinite(result.served.e2e_ms)] >= 0).all()
    assert set(requests.user[result.rate_limited].tolist()) <= {0}


def test_round_robin_shares_evenly_and_weights_by_weight():
    even = simulate_fleet(table(90), replica(3), "round-robin")
    assert even.by_replica().tolist() == [30, 30, 30]
    weighted = simulate_fleet(table(90), [replica(1, weight=1.0), replica(1, weight=2.0)], "weighted")
    assert weighted.by_replica().tolist() == [30, 60]


def test_least_requests_avoids_a_slow_replica():
    requests = table(400, 25.0)
    slow = ReplicaSpec(EngineConfig(LATENCY.scaled(4.0), estimate=LATENCY.scaled(4.0), kv_capacity_tokens=6000), LIMITS)
    evenly, wisely = (simulate_fleet(requests, [replica(2), slow], rule) for rule in ("round-robin", "least-requests"))
    assert wisely.by_replica()[2] < 0.75 * evenly.by_replica()[2]
    assert wisely.served.goodput_fraction > evenly.served.goodput_fraction


def test_a_stale_view_herds_unless_the_router_counts_what_it_sent():
    requests = table(600, 12.0)
    fresh, herd, counting = (
        simulate_fleet(requests, replica(4), router).served.percentile_ms("ttft_ms", 99)
        for router in (
            Router("least-requests"),
            Router("least-requests", poll_ms=1000.0, counts_sent=False),
            Router("least-requests", poll_ms=1000.0),
        )
    )
    assert herd > 3 * fresh
    assert counting < herd / 2


def test_what_had_no_token_survives_the_death_of_its_replica():
    requests = RequestTable.from_arrays([0.0, 1.0, 2.0, 3.0], [400] * 4, [50] * 4, slos=SLO(1e5, 1e5))
    struck = simulate_fleet(
        requests, replica(2, Limits(1, 512)), Router("round-robin"), faults=[Fault(100.0, 0)], health_ms=50.0
    )
    assert struck.served.finish_reason == ["failed", "length", "length", "length"]
    assert struck.retried == 2  # once more to the dead one, which nobody has noticed yet
    without = simulate_fleet(
        requests, replica(2, Limits(1, 512)), Router("round-robin", retries=0), faults=[Fault(100.0, 0)]
    )
    assert without.served.finish_reason == ["failed", "length", "failed", "length"]


def test_a_dead_replica_is_tried_until_somebody_notices_and_not_after():
    requests = table(60, 50.0)
    router = Router("round-robin", breaker_failures=2, breaker_ms=1e6)
    broken = simulate_fleet(requests, replica(2), router, faults=[Fault(0.5, 0)], health_ms=1e6)
    assert broken.retried == 2
    noticed = simulate_fleet(requests, replica(2), "round-robin", faults=[Fault(0.5, 0)], health_ms=1.0)
    assert noticed.retried == 0
    assert noticed.served.count("length") == 60


def test_a_users_bucket_refuses_what_it_does_not_hold():
    requests = RequestTable.from_arrays([0.0, 0.0, 0.0, 1000.0], [90] * 4, [10] * 4, user=[5, 5, 6, 5])
    result = simulate_fleet(requests, replica(), rate_limits={5: RateLimit(100.0, 100.0)})
    assert result.rate_limited.tolist() == [False, True, False, False]
    assert result.served.finish_reason[1] == "refused_on_arrival"


def test_versions_go_to_their_own_replicas():
    requests = table(40)
    versions = np.arange(40) % 2
    result = simulate_fleet(requests, [replica(1, version=0), replica(2, version=1)], "round-robin", versions=versions)
    assert (result.replica[versions == 0] == 0).all()
    assert set(result.replica[versions == 1].tolist()) == {1, 2}
    nobody = simulate_fleet(requests, replica(2), "round-robin", versions=np.full(40, 7))
    assert nobody.served.count("failed") == 40


def test_a_smaller_model_stands_in_when_every_replica_is_late():
    requests = table(400, 5.0)
    small = ReplicaSpec(EngineConfig(LATENCY.scaled(0.25), estimate=LATENCY.scaled(0.25)), LIMITS, tier=1)
    alone = simulate_fleet(requests, replica(1), "least-requests")
    helped = simulate_fleet(requests, [replica(1), small], Router("least-requests", degrade_ttft_ms=500.0))
    assert 0 < (helped.replica == 1).sum() < 400
    assert helped.served.goodput_fraction > alone.served.goodput_fraction + 0.2
    spared = simulate_fleet(table(40, 500.0), [replica(1), small], Router("least-requests", degrade_ttft_ms=500.0))
    assert (spared.replica == 0).all()


def test_cost_counts_devices_by_the_hour():
    result = simulate_fleet(table(), replica(2, devices=4, usd_per_device_hour=3.0), "round-robin")
    hours = result.served.elapsed_ms / 3.6e6
    assert result.device_hours == pytest.approx(8 * hours)
    assert result.usd == pytest.approx(24 * hours)
    assert math.isnan(simulate_fleet(table(), replica(2), "round-robin").usd)


@pytest.mark.parametrize(
    ("changes", "said"),
    [
        ({"router": "least-busy"}, "routing rule"),
        ({"replicas": []}, "replicas is empty"),
        ({"least": 3, "most": 2}, "1 <= least <= most"),
        ({"versions": [1.5]}, "versions"),
        ({"faults": [Fault(1.0, 9)]}, "befalls replica 9; there are 1"),
        ({"window_ms": 0.0}, "window_ms is 0"),
    ],
)
def test_what_makes_no_sense_is_refused(changes, said):
    with pytest.raises(ValueError, match=said):
        simulate_fleet(**({"requests": table(3), "replicas": replica()} | changes))


def test_a_smaller_model_of_another_version_does_not_stand_in():
    requests = table(200, 5.0)
    small = ReplicaSpec(EngineConfig(LATENCY.scaled(0.25), estimate=LATENCY.scaled(0.25)), LIMITS, tier=1, version=7)
    router = Router("least-requests", degrade_ttft_ms=100.0)
    result = simulate_fleet(requests, [replica(1), small], router, versions=np.zeros(200, int))
    assert (result.replica == 0).all()


def test_a_closed_loop_is_refused():
    with pytest.raises(ValueError, match="open loop"):
        simulate_fleet(RequestTable.from_arrays([0.0], [1], [1], concurrency=1), replica())


@pytest.mark.parametrize("piece_ms", [700.0, 2500.0])
def test_a_run_in_pieces_is_the_run_whatever_befalls_it(piece_ms):
    def begun() -> Fleet:
        faults = [Fault(1234.5, 0, "hangs", 900.0), Fault(2000.0, 1, "slows", 1500.0)]
        router = Router("least-tokens", poll_ms=300.0)
        return Fleet(table(200, 20.0), [replica(2)], router, scaler=QueueAndUse(interval_s=1.0), faults=faults)

    whole, pieces = begun(), begun()
    whole.run_until(14_000.0)
    for end in [*np.arange(piece_ms, 14_000.0, piece_ms), 14_000.0]:
        pieces.run_until(float(end))
    a, b = whole.result(), pieces.result()
    np.testing.assert_array_equal(a.replica, b.replica)
    np.testing.assert_allclose(a.served.e2e_ms, b.served.e2e_ms)
    assert [moment.existing for moment in whole.moments] == [moment.existing for moment in pieces.moments]
    assert a.replica_hours == pytest.approx(b.replica_hours)


def test_a_fleet_without_a_scaler_takes_no_orders_for_replicas():
    with pytest.raises(ValueError, match="no scaler"):
        Fleet(table(3), [replica()], Router()).scale(2)


def test_replicas_with_tuners_take_no_limits():
    tuned = Fleet(table(3), [replica(limits=lambda _: make_tuner("aimd"))], Router())  # type: ignore[arg-type]
    with pytest.raises(ValueError, match="have tuners"):
        tuned.replicas.order(0, LIMITS)
    with pytest.raises(ValueError, match="weight of replica 0 is 0"):
        tuned.replicas.weigh(0, 0.0)
