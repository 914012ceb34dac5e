"""The fleet tuner: replicas that pay for themselves, limits for their share, corrected by what was seen."""

from __future__ import annotations

import math
from dataclasses import replace

import numpy as np
import pytest

from batchpilot import SLO, Limits, RequestTable, SaturationParameters
from batchpilot.engines import EngineConfig
from batchpilot.fleet import ReplicaSpec, simulate_fleet
from batchpilot.fleet.scalers import FleetView
from batchpilot.fleet.tuner import FleetTuner, Kind
from batchpilot.latency.planning.demand import Demand
from batchpilot.latency.planning.planner import plan, plan_at
from batchpilot.tuners import make_tuner

LATENCY = SaturationParameters(p_max=12.0, k_b=10.0, k_s=0.008, tau_0=5.0, tau_b=0.02, tau_c=3e-4)
PROMISE = SLO(2000.0, 100.0)
DEMAND = Demand(np.full(50, 200.0), np.full(50, 30.0))
HELD = plan(LATENCY, DEMAND, PROMISE, 100_000).rate_per_s
CALM = FleetView(30.0, 2, 0, 0, 5, 0.5, 0.1, 1.0, HELD, 230 * HELD, 1.0)


def tuner(**changes: object) -> FleetTuner:
    return FleetTuner([Kind(LATENCY, 100_000)], DEMAND, PROMISE, **{"most": 6} | changes)  # type: ignore[arg-type]


def after(one: FleetTuner, rate: float, intervals: int = 6, attainment: float = 1.0, serving: int = 2) -> int:
    for k in range(intervals):
        view = replace(CALM, now_s=30.0 * (k + 1), arrivals_per_s=rate, slo_attainment=attainment, serving=serving)
        one.tell(view)
    return one.ask().replicas


def test_replicas_grow_with_the_rate_and_stay_within_bounds():
    counts = [after(tuner(), load * HELD) for load in (0.3, 1.8, 3.5, 30.0)]
    assert counts == sorted(counts)
    assert counts[0] == 1
    assert 2 <= counts[1] <= 3
    assert counts[-1] == 6
    assert after(tuner(least=2), 0.1 * HELD) == 2


def test_a_replica_that_costs_more_than_it_serves_is_not_added():
    assert after(tuner(cost_weight=2.0), 3 * HELD) == 1
    assert after(tuner(cost_weight=0.01), 3 * HELD) > after(tuner(cost_weight=0.6), 3 * HELD)


def test_limits_are_those_planned_for_a_replicas_share():
    few, many = tuner(most=2), tuner(least=6)
    after(few, 2 * HELD), after(many, 2 * HELD)
    assert many.ask().limits[0].batch_size < few.ask().limits[0].batch_size
    assert few.ask().limits[0].ttft_guard == 1.0
    assert few.ask().attainment < many.ask().attainment


def test_less_served_than_planned_asks_for_more_replicas():
    believing, disappointed = tuner(), tuner()
    after(believing, 1.9 * HELD, 20)
    after(disappointed, 1.9 * HELD, 20, attainment=0.5)
    assert disappointed.trust < believing.trust
    assert disappointed.ask().replicas >= believing.ask().replicas


def test_replicas_go_only_after_their_start_up_time_of_calm():
    one = tuner(ahead_s=60.0)
    high = after(one, 4 * HELD, attainment=math.nan)
    numbers = []
    for k in range(20):
        one.tell(replace(CALM, now_s=300.0 + 30.0 * k, arrivals_per_s=0.2 * HELD, slo_attainment=math.nan))
        numbers.append(one.ask().replicas)
    assert numbers[0] == high
    assert numbers[-1] < high


def test_what_stands_beside_takes_its_share():
    kinds = [Kind(LATENCY, 100_000), Kind(LATENCY, 100_000, standing=2)]
    assisted = FleetTuner(kinds, DEMAND, PROMISE, most=6)
    assert after(assisted, 3 * HELD) < after(tuner(), 3 * HELD)
    assert len(assisted.ask().limits) == 2


def test_kinds_that_are_scaled_are_filled_in_their_order_and_all_paid_for():
    fast = SaturationParameters(p_max=24.0, k_b=10.0, k_s=0.008, tau_0=5.0, tau_b=0.02, tau_c=3e-4)
    kinds = [Kind(fast, 100_000), Kind(LATENCY, 100_000), Kind(LATENCY, 100_000, standing=1)]
    both = FleetTuner(kinds, DEMAND, PROMISE, most=5, scaled={1: 3, 0: 2})
    assert both.ask().by_kind == (0, 1, 1)
    seen = []
    for load in (0.5, 3.5, 9.0):
        one = FleetTuner(kinds, DEMAND, PROMISE, most=5, scaled={1: 3, 0: 2})
        assert after(one, load * HELD) == sum(one.ask().by_kind[:2])
        seen.append(one.ask().by_kind)
    assert seen[0] == (0, 1, 1)
    assert seen[1][0] == 0 < 1 < seen[1][1]
    assert seen[2] == (2, 3, 1)
    dear = FleetTuner(kinds, DEMAND, PROMISE, most=5, scaled={1: 3, 0: 2}, cost_weight=2.0)
    after(dear, 9 * HELD)
    assert dear.ask().by_kind == (0, 1, 1)
    with pytest.raises(ValueError, match="it must name places of kinds, 0 to 2"):
        FleetTuner(kinds, DEMAND, PROMISE, scaled={3: 1})


def test_a_fleet_scales_every_kind_that_its_tuner_plans():
    engine = EngineConfig(LATENCY, estimate=LATENCY, kv_capacity_tokens=100_000)
    first = ReplicaSpec(engine, Limits(256, 2048), name="first", count=0, startup_s=5.0)
    specs = [first, replace(first, name="second", count=1)]
    rng = np.random.default_rng(0)
    n = int(60 * 3.5 * HELD)
    table = RequestTable.from_arrays(np.sort(rng.uniform(0, 60_000, n)), np.full(n, 200), np.full(n, 30), slos=PROMISE)
    kinds = [Kind(LATENCY, 100_000)] * 2
    bounds = {"most": 5, "ahead_s": 5.0, "interval_s": 5.0}
    planned = FleetTuner(kinds, DEMAND, PROMISE, scaled={1: 2, 0: 3}, **bounds)
    result = simulate_fleet(table, specs, scaler=planned, most=5, scaled={"second": 2, "first": 3})
    added = [span.spec for span in result.spans if span.from_ms > 0]
    assert added[:2] == [1, 0]
    assert planned.ask().by_kind[1] == 2
    with pytest.raises(ValueError, match=r"plans for kinds \[0\] to be added to"):
        simulate_fleet(
            table, specs, scaler=FleetTuner(kinds, DEMAND, PROMISE, **bounds), most=5, scaled={"second": 2, "first": 3}
        )


def test_a_fleet_puts_planned_limits_into_force():
    engine = EngineConfig(LATENCY, estimate=LATENCY, kv_capacity_tokens=100_000)
    spec = ReplicaSpec(engine, Limits(256, 2048), startup_s=5.0)
    rng = np.random.default_rng(0)
    n = int(120 * 2.5 * HELD)
    table = RequestTable.from_arrays(np.sort(rng.uniform(0, 120_000, n)), np.full(n, 200), np.full(n, 30), slos=PROMISE)
    planned = tuner(ahead_s=5.0, interval_s=5.0)
    served = simulate_fleet(table, spec, scaler=planned, most=6)
    alone = simulate_fleet(table, spec)
    assert max(moment.serving for moment in served.moments) >= 3
    assert served.served.goodput_fraction > alone.served.goodput_fraction + 0.3
    assert served.served.count("refused_by_guard") > 0
    with pytest.raises(ValueError, match="have tuners"):
        simulate_fleet(table, replace(spec, limits=lambda _: make_tuner("aimd")), scaler=tuner(interval_s=5.0))


@pytest.mark.parametrize(
    ("changes", "said"),
    [({"kinds": []}, "kinds is empty"), ({"least": 7}, "least 7 and most 6"), ({"cost_weight": -1.0}, "cost_weight")],
)
def test_what_makes_no_sense_is_refused(changes, said):
    with pytest.raises(ValueError, match=said):
        FleetTuner(**{"kinds": [Kind(LATENCY, 100_000)], "demand": DEMAND, "slo": PROMISE, "most": 6} | changes)


def test_a_plan_at_a_rate_serves_less_the_higher_it_is():
    shares = [plan_at(LATENCY, DEMAND, PROMISE, 100_000, load * HELD)[1] for load in (0.5, 1.0, 2.0)]
    assert shares[0] > 0.99
    assert shares[0] >= shares[1] > shares[2]
    with pytest.raises(ValueError, match="rate is 0"):
        plan_at(LATENCY, DEMAND, PROMISE, 100_000, 0.0)
    assert not math.isnan(shares[2])
