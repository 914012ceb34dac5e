"""Whom the scheduler refuses past its capacity."""

import numpy as np
import pytest
from hypothesis import HealthCheck, given, settings
from test_scheduler_laws import kv_tokens, limits_of_any_kind, modes, tables

from batchpilot import SLO, Limits, RequestTable, SaturationParameters, simulate
from batchpilot.engines import EngineConfig, SimulatedEngine

LATENCY = SaturationParameters(p_max=12.0, k_b=10.0, k_s=0.01, tau_0=5.0, tau_b=0.02, tau_c=3e-4)
GUARDED = Limits(32, token_budget=1024, step_target_ms=90.0, ttft_guard=1.0)


def overloaded(seed, n=1500):
    """Twice what the engine can serve, prompts of very different lengths."""
    rng = np.random.default_rng(seed)
    return RequestTable.from_arrays(
        np.cumsum(rng.exponential(50.0, n)),
        np.clip(rng.lognormal(6.2, 1.0, n), 20, 8000).astype(int),
        np.clip(rng.lognormal(4.0, 0.6, n), 4, 400).astype(int),
        slos=SLO(2000.0, 100.0),
    )


def excess(result):
    """By how much the refusals of the worst quarter exceed those of all."""
    return result.refused_worst_quarter - result.refused_fraction


@pytest.mark.parametrize("discipline", ["fcfs", "spf", "value"])
@pytest.mark.parametrize("seed", [0, 1])
def test_refusals_of_the_worst_quarter_exceed_all_by_about_the_bound_at_most(discipline, seed):
    table = overloaded(seed)
    free = simulate(table, LATENCY, GUARDED.replace(discipline=discipline))
    assert free.refused_fraction > 0.15
    assert excess(free) > 0.15
    for bound in (0.0, 0.1):
        bounded = simulate(table, LATENCY, GUARDED.replace(discipline=discipline, refusal_bound=bound))
        assert excess(bounded) < bound + 0.06
        assert bounded.goodput_fraction <= free.goodput_fraction + 0.02


def test_value_over_cost_serves_more_than_arrival_order():
    table = overloaded(2)
    served = {name: simulate(table, LATENCY, GUARDED.replace(discipline=name)) for name in ("fcfs", "value")}
    assert served["value"].goodput_fraction > served["fcfs"].goodput_fraction + 0.05


@settings(max_examples=60, deadline=None, suppress_health_check=[HealthCheck.too_slow])
@given(tables(), limits_of_any_kind, modes, kv_tokens)
def test_a_bound_that_nobody_can_exceed_changes_nothing(table, limits, mode, kv):
    how = {"kv_capacity_tokens": kv, "mode": mode[0], "prefill": mode[1]}
    free, bounded = (
        simulate(table, LATENCY, limits.replace(refusal_bound=bound), record_steps=True, **how) for bound in (None, 1.0)
    )
    assert free.finish_reason == bounded.finish_reason
    np.testing.assert_array_equal(free.step_log, bounded.step_log)
    np.testing.assert_array_equal(free.ttft_ms, bounded.ttft_ms)


def test_the_bound_can_be_switched_on_while_requests_wait():
    table = overloaded(3, 400)
    engine = SimulatedEngine(EngineConfig(latency=LATENCY), table)
    engine.set_limits(GUARDED)
    engine.run_until(8000.0)
    engine.set_limits(GUARDED.replace(refusal_bound=0.0, discipline="spf"))
    while not engine.run_until(engine.now_ms + 5000.0):
        engine.set_limits(GUARDED.replace(refusal_bound=0.0))
    reasons = engine.state.requests["reason"][: len(table)]
    assert (reasons != 0).all()
