"""The compiled scheduler does, step by step, what the plain one does."""

import numpy as np
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from reference_scheduler import Reference, Request

from batchpilot import SLO, Limits, RequestTable, SaturationParameters, simulate
from batchpilot.core import DISCIPLINES

LATENCY = SaturationParameters(p_max=12.0, k_b=2.0, k_s=0.02, tau_0=4.0, tau_b=0.05, tau_c=4e-4)
ESTIMATE = SaturationParameters(p_max=10.0, k_b=2.0, k_s=0.03, tau_0=5.0, tau_b=0.04, tau_c=3e-4)
SLOW_ALONE = SaturationParameters(p_max=20.0, k_b=0.12, k_s=0.005, tau_0=10.0, tau_b=0.02, tau_c=1e-4)
"""One request alone is believed to take longer than sixteen."""


def random_table(seed, n=60, concurrency=0, longest_output=60):
    rng = np.random.default_rng(seed)
    prompts = rng.integers(1, 900, n)
    outputs = rng.integers(1, longest_output, n)
    return RequestTable.from_arrays(
        np.cumsum(rng.exponential(40.0, n)),
        prompts,
        outputs,
        estimated_output_tokens=rng.uniform(1, 60, n),
        slo_class=rng.integers(0, 2, n),
        user=rng.integers(0, 3, n),
        priority=rng.integers(0, 3, n),
        slos=(SLO(400.0, 60.0, "short"), SLO(3000.0, 100.0, "long")),
        concurrency=concurrency,
    )


def run_reference(table, limits, kv_tokens, prefill, discipline, estimate):
    columns = (table.arrival_ms, table.prompt_tokens, table.output_tokens, table.estimated_output_tokens)
    columns += (table.ttft_target_ms, table.user, table.priority)
    requests = [Request(i, *(column.item() for column in row)) for i, row in enumerate(zip(*columns, strict=True))]
    reference = Reference(
        requests,
        LATENCY,
        estimate,
        limits,
        kv_tokens // 16,
        prefill=prefill,
        discipline=discipline,
        concurrency=table.concurrency,
    )
    return reference.run()


def assert_same(table, limits, kv_tokens, prefill="chunked", discipline="fcfs", estimate=ESTIMATE):
    reference = run_reference(table, limits, kv_tokens, prefill, discipline, estimate)
    result = simulate(
        table,
        LATENCY,
        limits,
        kv_capacity_tokens=kv_tokens,
        estimate=estimate,
        prefill=prefill,
        discipline=discipline,
        record_steps=True,
    )
    np.testing.assert_allclose(result.step_log, np.array(reference.steps).reshape(-1, 5), rtol=1e-9)
    assert result.finish_reason == [r.reason for r in reference.requests]
    np.testing.assert_array_equal(result.generated_tokens, [r.generated for r in reference.requests])
    np.testing.assert_allclose(result.ttft_ms, [r.first - r.arrival for r in reference.requests], rtol=1e-9, atol=1e-6)
    np.testing.assert_allclose(result.e2e_ms, [r.finish - r.arrival for r in reference.requests], rtol=1e-9, atol=1e-6)
    assert result.preemptions == reference.preemptions
    return result


@pytest.mark.parametrize("discipline", DISCIPLINES)
@pytest.mark.parametrize("prefill", ["chunked", "whole", "selective"])
def test_every_discipline_and_prefill_mode_equals_the_plain_scheduler(discipline, prefill):
    assert_same(random_table(1), Limits(8, token_budget=256), 3000, prefill, discipline)


@pytest.mark.parametrize("discipline", ["fcfs", "spf", "priority", "fair"])
def test_a_kv_cache_that_is_too_small_preempts_like_the_plain_scheduler(discipline):
    result = assert_same(random_table(2, longest_output=400), Limits(16, token_budget=512), 1600, discipline=discipline)
    assert result.preemptions > 10


def test_the_guard_and_the_step_target_equal_the_plain_scheduler():
    limits = Limits(12, token_budget=400, step_target_ms=25.0, ttft_guard=1.0)
    result = assert_same(random_table(3), limits, 4000, discipline="spf")
    assert result.count("refused_by_guard") > 3


def test_the_queue_limit_equals_the_plain_scheduler():
    result = assert_same(random_table(4), Limits(4, token_budget=256, max_queued_tokens=2000), 4000)
    assert result.count("refused_on_arrival") > 3


def test_a_closed_loop_equals_the_plain_scheduler():
    assert_same(random_table(5, concurrency=6), Limits(4, token_budget=300), 4000)


@settings(max_examples=60, deadline=None, suppress_health_check=[HealthCheck.too_slow])
@given(
    seed=st.integers(0, 10_000),
    batch_size=st.integers(1, 20),
    token_budget=st.one_of(st.none(), st.integers(1, 700)),
    queued=st.one_of(st.none(), st.integers(0, 4000)),
    step_target=st.one_of(st.none(), st.floats(1.0, 80.0)),
    guard=st.one_of(st.none(), st.floats(0.1, 3.0)),
    kv_tokens=st.integers(1000, 6000),
    prefill=st.sampled_from(["chunked", "whole", "selective"]),
    discipline=st.sampled_from(list(DISCIPLINES)),
    concurrency=st.sampled_from([0, 0, 3]),
    estimate=st.sampled_from([ESTIMATE, SLOW_ALONE]),
)
def test_any_setting_equals_the_plain_scheduler(
    seed, batch_size, token_budget, queued, step_target, guard, kv_tokens, prefill, discipline, concurrency, estimate
):
    limits = Limits(batch_size, token_budget, queued, None, step_target, guard)
    assert_same(random_table(seed, 25, concurrency), limits, kv_tokens, prefill, discipline, estimate)
