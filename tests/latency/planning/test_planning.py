"""Plans: limits that meet their targets by the model, directions that must hold, and simulation as the judge."""

from dataclasses import replace

import numpy as np
import pytest

from batchpilot.core.slo import SLO
from batchpilot.engines import simulate
from batchpilot.latency.model.saturation import SaturationParameters
from batchpilot.latency.planning.capacity import (
    largest_decode_batch,
    limits_for_lengths,
    max_queued_tokens,
    token_budget,
)
from batchpilot.latency.planning.demand import Demand, kv_residents
from batchpilot.latency.planning.planner import RATE_MARGIN, TPOT_SHARE, plan, planned_service
from batchpilot.workloads import RequestTable, poisson

P = SaturationParameters(10.0, 10.0, 0.01, tau_0=5.0, tau_b=0.02, tau_c=2e-4)
SLO_2S = SLO(2000.0, 100.0)
KV = 120_000


def chat(n, rng):
    return (
        np.clip(rng.lognormal(6.0, 0.8, n), 1, 3000).astype(int),
        np.clip(rng.lognormal(5.0, 0.6, n), 1, 800).astype(int),
    )


@pytest.fixture(scope="module")
def demand():
    prompt, output = chat(512, np.random.default_rng(3))
    return Demand(prompt.astype(float), output.astype(float))


@pytest.fixture(scope="module")
def chosen(demand):
    return plan(P, demand, SLO_2S, KV)


def test_planned_limits_keep_the_tpot_target_by_the_model(chosen):
    limits = chosen.limits
    assert limits.step_target_ms <= TPOT_SHARE * SLO_2S.tpot_ms
    context = chosen.context_tokens / chosen.batch_size * limits.batch_size
    assert float(P.predict(limits.batch_size, limits.batch_size, context)) <= SLO_2S.tpot_ms
    assert limits.batch_size <= chosen.places
    assert limits.token_budget >= limits.batch_size


def test_the_planned_rate_lies_a_margin_below_what_the_model_holds(chosen, demand):
    service = planned_service(P, demand, chosen)
    at_the_edge = service.facing(chosen.rate_per_s / RATE_MARGIN / 1000.0)
    assert at_the_edge.attainment == pytest.approx(chosen.attainment, abs=1e-3)
    assert service.facing(chosen.rate_per_s / 1000.0).attainment > chosen.attainment
    assert chosen.rate_per_s < 1.1 * chosen.saturation_per_s


@pytest.mark.parametrize("seed", [0, 1, 2])
def test_simulation_attains_the_slo_at_the_planned_rate(chosen, seed):
    rng = np.random.default_rng(seed)
    arrival_ms = poisson(chosen.rate_per_s, 200_000.0, rng)
    requests = RequestTable.from_arrays(arrival_ms, *chat(len(arrival_ms), rng), slos=SLO_2S)
    result = simulate(requests, P, chosen.limits, kv_capacity_tokens=KV, noise=0.05, seed=seed)
    assert result.slo_attainment >= chosen.attainment


def test_simulation_breaks_the_slo_well_above_the_planned_rate(chosen):
    rng = np.random.default_rng(0)
    arrival_ms = poisson(1.6 * chosen.rate_per_s, 200_000.0, rng)
    requests = RequestTable.from_arrays(arrival_ms, *chat(len(arrival_ms), rng), slos=SLO_2S)
    result = simulate(requests, P, chosen.limits, kv_capacity_tokens=KV, noise=0.05, seed=0)
    assert result.slo_attainment < chosen.attainment


def test_slower_steps_tighter_targets_and_less_memory_hold_less(chosen, demand):
    assert plan(P.scaled(1.2), demand, SLO_2S, KV).rate_per_s < chosen.rate_per_s
    assert plan(P, demand, SLO(800.0, 60.0), KV).rate_per_s < chosen.rate_per_s
    assert plan(P, demand, SLO_2S, 10_000).rate_per_s < chosen.rate_per_s
    assert plan(P, demand, SLO_2S, KV, attainment=0.99).rate_per_s < chosen.rate_per_s


def test_what_binds_is_named(demand):
    assert plan(P, demand, SLO_2S, 6000).bound_by == "KV memory"
    assert plan(P, demand, SLO(10_000.0, 100.0), 10**7).bound_by == "compute"
    assert plan(P, demand, SLO(480.0, 60.0), 10**7).bound_by == "TTFT target"


def test_engines_for_a_rate_are_whole_and_enough(chosen):
    assert chosen.engines_for(0.001) == 1
    assert chosen.engines_for(10.5 * chosen.rate_per_s) == 11
    with pytest.raises(ValueError, match="rate is 0"):
        chosen.engines_for(0)


@pytest.mark.parametrize(
    ("slo", "kv", "attainment", "message"),
    [
        (SLO(2000, 4), KV, 0.95, "a step of one token takes"),
        (SLO(60, 50), KV, 0.95, "of the prompts take longer"),
        (SLO_2S, 100, 0.95, "the longest request needs"),
        (SLO(float("inf"), 50), KV, 0.95, "finite targets"),
        (SLO_2S, KV, 1.0, "attainment is 1.0"),
    ],
)
def test_what_cannot_be_planned_is_told_why(demand, slo, kv, attainment, message):
    with pytest.raises(ValueError, match=message):
        plan(P, demand, slo, kv, attainment=attainment)


def test_a_plan_for_another_engine_is_refused(chosen, demand):
    with pytest.raises(ValueError, match="made for another engine"):
        planned_service(P.scaled(1000.0), demand, replace(chosen))


def test_the_token_budget_fills_the_target_and_never_holds_decoding_back():
    budget = token_budget(P, 32, 20_000, 80.0)
    assert float(P.predict(32, budget, 20_000)) <= 80.0 < float(P.predict(32, budget + 1, 20_000))
    assert token_budget(P, 32, 20_000, 1.0) == 32


def test_the_largest_decode_batch_is_the_last_that_fits():
    largest = largest_decode_batch(P, 1000, 50.0)
    assert float(P.predict(largest, largest, largest * 1000)) <= 50.0
    assert float(P.predict(largest + 1, largest + 1, (largest + 1) * 1000)) > 50.0
    assert largest_decode_batch(P, 1000, 1.0) == 0


def test_queued_tokens_are_target_ttft_times_prefill_throughput():
    step_ms = float(P.predict(20, 520, 10_000))
    assert max_queued_tokens(P, 20, 10_000, 520, 2000.0) == int((2000.0 - step_ms) * 500 / step_ms)
    assert max_queued_tokens(P, 20, 10_000, 520, 1.0) == 0


def test_limits_for_one_length_keep_both_targets_and_no_larger_batch_does():
    found = limits_for_lengths(P, 600, 200, SLO_2S, KV)
    one = Demand(np.array([600.0]), np.array([200.0]))
    requests, tokens, context = one.step_at(found.batch_size)
    assert float(P.predict(requests, tokens, context)) <= SLO_2S.tpot_ms
    assert float(P.predict(requests, found.token_budget, context)) <= SLO_2S.tpot_ms
    crowded = float(P.predict(*one.step_at(found.batch_size + 1)))
    assert crowded > SLO_2S.tpot_ms or found.batch_size == kv_residents(one, KV)
    assert limits_for_lengths(P, 600, 200, SLO(50.0, 100.0), KV) is None


def test_cached_tokens_are_read_and_kept_but_not_computed():
    prompt, output = np.array([1000.0, 600.0]), np.array([50.0, 10.0])
    whole, cached = Demand(prompt, output), Demand(prompt, output, np.array([800.0, 0.0]))
    assert np.array_equal(Demand(prompt, output, np.zeros(2)).cached_tokens, whole.cached_tokens)
    assert cached.tokens == whole.tokens - 400
    assert cached.context == whole.context + 400
    assert cached.resident_kv == whole.resident_kv
    assert cached.prefix_hit_rate == 0.5
    with pytest.raises(ValueError, match="cached_tokens must be one for each prompt"):
        Demand(prompt, output, np.array([1000.0, 0.0]))
