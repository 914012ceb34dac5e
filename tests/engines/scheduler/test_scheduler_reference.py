"""The compiled scheduler does, step by step, what the plain one does."""

import math
from types import MappingProxyType

import numpy as np
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from reference_drafts import draws
from reference_scheduler import Reference, Request
from shared_prefixes import in_common, reference_contents

from batchpilot import SLO, Limits, RequestTable, SaturationParameters, simulate
from batchpilot.core import DISCIPLINES
from batchpilot.core.refusals import BOUNDED
from batchpilot.core.speculation import Speculation
from batchpilot.core.tenants import TenantTerms
from batchpilot.latency.model.vision_tower import VisionTower
from batchpilot.workloads.images import Images
from batchpilot.workloads.turns import LAST, Turns

LATENCY = SaturationParameters(p_max=12.0, k_b=2.0, k_s=0.02, tau_0=4.0, tau_b=0.05, tau_c=4e-4)
ESTIMATE = SaturationParameters(p_max=10.0, k_b=2.0, k_s=0.03, tau_0=5.0, tau_b=0.04, tau_c=3e-4)
DRAFTER = Speculation()
NOBODY = MappingProxyType({})
SLOW_ALONE = SaturationParameters(p_max=20.0, k_b=0.12, k_s=0.005, tau_0=10.0, tau_b=0.02, tau_c=1e-4)
"""One request alone is believed to take longer than sixteen."""


TOWER = VisionTower(pass_ms=9.0, token_ms=0.03, feature_cache=4, together=3)


def random_images(n, rng):
    """Images of half of the requests, up to three each, few different ones; some stand behind text."""
    most = int(rng.integers(1, 4))
    side_px = rng.choice([0, 0, 0, 224, 336, 448], (n, most))
    return Images.from_arrays(side_px, rng.integers(0, 4, (n, most)), rng.choice([0, 0, 70], n))


def random_table(seed, n=60, concurrency=0, longest_output=60, hash_block=None, conversations=0, images=False):
    rng = np.random.default_rng(seed)
    prompts = rng.integers(1, 900, n)
    outputs = rng.integers(1, longest_output, n)
    shown = random_images(n, np.random.default_rng([seed, 1])) if images else None
    if shown is not None:
        prompts = np.maximum(prompts, shown.end_tokens + prompts % 50)
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
        prefixes=None if hash_block is None else in_common(prompts + outputs, hash_block, rng),
        turns=Turns(rng.integers(-1, conversations, n), rng.choice([0.0, 30.0, 900.0], n)) if conversations else None,
        images=shown,
    )


def run_reference(table, limits, kv_tokens, prefill, discipline, estimate, tower, speculation, tenants):
    columns = (table.arrival_ms, table.prompt_tokens, table.output_tokens, table.estimated_output_tokens)
    columns += (table.ttft_target_ms, table.user, table.priority)
    requests = [Request(i, *(column.item() for column in row)) for i, row in enumerate(zip(*columns, strict=True))]
    if table.prefixes is not None:
        for request, contents in zip(requests, reference_contents(table, 16), strict=True):
            request.contents = contents
    if table.images is not None:
        images = table.images
        for request, *columns in zip(requests, images.side_px, images.number, images.ends, strict=True):
            for side_px, number, end in np.array(columns).T.tolist():
                if side_px:
                    request.images.append(((number, side_px), (side_px // 14) ** 2, end))
    if table.turns is not None:
        for request, following, think_ms in zip(requests, table.turns.following(), table.turns.think_ms, strict=True):
            request.think = think_ms
            if following != LAST:
                request.following = requests[following]
                requests[following].arrival = math.nan
    reference = Reference(
        requests,
        LATENCY,
        estimate,
        limits,
        kv_tokens // 16,
        prefill=prefill,
        discipline=discipline,
        concurrency=table.concurrency,
        conversations=table.turns is not None,
        prefix_cache=table.prefixes is not None,
        tower=tower,
        speculation=speculation,
        draws=draws(0),
        weights={user: terms.weight for user, terms in tenants.items()},
        ceilings={user: terms.max_running or math.inf for user, terms in tenants.items()},
    )
    return reference.run()


def assert_same(
    table,
    limits,
    kv_tokens,
    prefill="chunked",
    discipline="fcfs",
    estimate=ESTIMATE,
    tower=TOWER,
    speculation=DRAFTER,
    tenants=NOBODY,
):
    reference = run_reference(table, limits, kv_tokens, prefill, discipline, estimate, tower, speculation, tenants)
    result = simulate(
        table,
        LATENCY,
        limits,
        kv_capacity_tokens=kv_tokens,
        estimate=estimate,
        prefill=prefill,
        discipline=discipline,
        prefix_cache=table.prefixes is not None,
        vision=tower,
        speculation=speculation,
        tenants=tenants,
        record_steps=True,
    )
    np.testing.assert_allclose(result.step_log, np.array(reference.steps).reshape(-1, 5), rtol=1e-9)
    assert result.finish_reason == [r.reason for r in reference.requests]
    np.testing.assert_array_equal(result.generated_tokens, [r.generated for r in reference.requests])
    np.testing.assert_allclose(result.ttft_ms, [r.first - r.arrival for r in reference.requests], rtol=1e-9, atol=1e-6)
    np.testing.assert_allclose(result.e2e_ms, [r.finish - r.arrival for r in reference.requests], rtol=1e-9, atol=1e-6)
    assert result.preemptions == reference.preemptions
    assert sum(window.drafts for window in result.windows) == len(reference.accepted)
    assert sum(window.accepted_tokens for window in result.windows) == sum(reference.accepted)
    let_in = [r.cached if r.admitted else 0 for r in reference.requests]
    np.testing.assert_array_equal(result.cached_tokens, let_in)
    assert sum(w.images for w in result.windows) == reference.lookups
    assert sum(w.image_hits for w in result.windows) == reference.hits
    np.testing.assert_allclose(result.encode_ms, reference.encoded_ms)
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


def test_who_comes_too_late_is_relegated_like_in_the_plain_scheduler():
    limits = Limits(4, token_budget=300, ttft_guard=1.0)
    result = assert_same(random_table(3), limits, 4000, discipline="deadline")
    assert result.finish_reason == ["length"] * 60, "nobody is refused"
    assert 0 < result.slo_met.sum() < 60


def test_a_delay_after_prompts_equals_the_plain_scheduler():
    table = random_table(8)
    limits = Limits(8, token_budget=256)
    delayed = assert_same(table, limits.replace(delay_factor=2.0), 4000)
    at_once = assert_same(table, limits, 4000)
    assert len(delayed.step_log) != len(at_once.step_log)


TENANTS = {0: TenantTerms(weight=3.0, max_running=2), 1: TenantTerms(max_running=1), 2: TenantTerms(weight=0.5)}


@pytest.mark.parametrize("discipline", DISCIPLINES)
@pytest.mark.parametrize("prefill", ["chunked", "selective"])
def test_ceilings_and_weights_of_tenants_equal_the_plain_scheduler(discipline, prefill):
    table, limits = random_table(5), Limits(8, token_budget=256, ttft_guard=2.0)
    held = assert_same(table, limits, 3000, prefill, discipline, tenants=TENANTS)
    free = assert_same(table, limits, 3000, prefill, discipline)
    assert len(held.step_log) != len(free.step_log), "the ceilings have bitten"


def test_preempted_requests_of_tenants_with_ceilings_equal_the_plain_scheduler():
    result = assert_same(random_table(2, longest_output=400), Limits(16, token_budget=512), 1200, tenants=TENANTS)
    assert result.preemptions > 3


def test_the_queue_limit_equals_the_plain_scheduler():
    result = assert_same(random_table(4), Limits(4, token_budget=256, max_queued_tokens=2000), 4000)
    assert result.count("refused_on_arrival") > 3


@pytest.mark.parametrize("discipline", DISCIPLINES)
def test_whose_quarter_is_refused_too_often_goes_first_like_in_the_plain_scheduler(discipline):
    table = random_table(12, 150)
    limits = Limits(4, token_budget=300, ttft_guard=1.0, max_queued_tokens=4000)
    bounded = assert_same(table, limits.replace(refusal_bound=0.02), 4000, discipline=discipline)
    free = assert_same(table, limits, 4000, discipline=discipline)
    assert (bounded.finish_reason != free.finish_reason) == (discipline in BOUNDED)


def test_a_closed_loop_equals_the_plain_scheduler():
    assert_same(random_table(5, concurrency=6), Limits(4, token_budget=300), 4000)


@pytest.mark.parametrize("discipline", DISCIPLINES)
@pytest.mark.parametrize("prefill", ["chunked", "whole", "selective"])
def test_a_prefix_cache_equals_the_plain_one(discipline, prefill):
    table = random_table(6, longest_output=200, hash_block=64)
    result = assert_same(table, Limits(12, token_budget=300, ttft_guard=2.0), 3000, prefill, discipline)
    assert 0.1 < result.prefix_hit_rate < 0.9


def test_a_prefix_cache_under_memory_pressure_forgets_and_preempts_like_the_plain_one():
    table = random_table(7, longest_output=400, hash_block=16)
    result = assert_same(table, Limits(16, token_budget=512), 1800)
    assert result.preemptions > 5
    assert result.prefix_hit_rate > 0.05


@pytest.mark.parametrize("discipline", DISCIPLINES)
def test_turns_of_conversations_come_and_break_off_as_with_the_plain_scheduler(discipline):
    table = random_table(8, 90, conversations=12)
    limits = Limits(6, token_budget=256, max_queued_tokens=1500, ttft_guard=1.0)
    result = assert_same(table, limits, 3000, discipline=discipline)
    asked = np.isfinite(result.requests.arrival_ms)
    assert 20 < result.count("length") < asked.sum() < len(table)


def test_turns_that_find_their_history_in_the_prefix_cache_equal_the_plain_scheduler():
    table = random_table(9, 60, longest_output=200, hash_block=16, conversations=6)
    result = assert_same(table, Limits(16, token_budget=512, max_queued_tokens=2500), 2200, discipline="spf")
    assert result.prefix_hit_rate > 0.05
    assert result.count("refused_on_arrival") > 3


@pytest.mark.parametrize("discipline", DISCIPLINES)
@pytest.mark.parametrize("prefill", ["chunked", "whole", "selective"])
def test_images_are_encoded_and_their_features_kept_as_with_the_plain_scheduler(discipline, prefill):
    table = random_table(10, images=True)
    result = assert_same(table, Limits(8, token_budget=1200, ttft_guard=1.5), 8000, prefill, discipline)
    assert 0.1 < result.image_hit_rate < 0.9
    assert result.encode_ms > 100.0
    assert 0 < result.count("refused_by_guard") < 60 or discipline == "deadline"


def test_images_that_are_computed_again_after_a_preemption_equal_the_plain_scheduler():
    result = assert_same(random_table(11, longest_output=400, images=True), Limits(16, token_budget=1500), 2400)
    assert result.preemptions > 5
    assert sum(window.images for window in result.windows) > result.requests.images.shown.sum()


@pytest.mark.parametrize("discipline", DISCIPLINES)
@pytest.mark.parametrize("prefill", ["chunked", "whole", "selective"])
def test_speculation_equals_the_plain_scheduler(discipline, prefill):
    limits = Limits(8, token_budget=300, ttft_guard=2.0, delay_factor=0.5, speculative_tokens=4)
    result = assert_same(random_table(10), limits, 3000, prefill, discipline)
    assert 1.5 < result.accepted_length < 2.9


def test_speculation_under_memory_pressure_and_a_step_target_equals_the_plain_scheduler():
    table = random_table(11, longest_output=400, hash_block=16, conversations=6)
    limits = Limits(16, token_budget=64, step_target_ms=40.0, speculative_tokens=6)
    result = assert_same(table, limits, 1800, speculation=Speculation(0.9, 0.9, 0.1))
    assert result.preemptions > 5
    assert result.accepted_length > 2.0


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
    hash_block=st.sampled_from([None, 8, 16, 24, 64, 512]),
    delay=st.one_of(st.none(), st.floats(0.0, 3.0)),
    conversations=st.sampled_from([0, 0, 1, 4, 20]),
    images=st.booleans(),
    tower=st.builds(
        VisionTower, st.just(7.0), st.just(0.02), st.sampled_from([0, 1, 3, 100]), st.sampled_from([1, 32])
    ),
    drafted=st.sampled_from([0, 0, 1, 3, 8, 40]),
    speculation=st.builds(Speculation, st.floats(0.0, 1.0), st.floats(0.0, 1.0), st.floats(0.0, 0.3)),
    bound=st.one_of(st.none(), st.sampled_from([0.0, 0.05, 0.3, 1.0])),
)
def test_any_setting_equals_the_plain_scheduler(
    seed,
    batch_size,
    token_budget,
    queued,
    step_target,
    guard,
    kv_tokens,
    prefill,
    discipline,
    concurrency,
    estimate,
    hash_block,
    delay,
    conversations,
    images,
    tower,
    drafted,
    speculation,
    bound,
):
    limits = Limits(
        *(batch_size, token_budget, queued, None, step_target, guard),
        delay_factor=delay,
        speculative_tokens=drafted,
        refusal_bound=bound,
    )
    table = random_table(
        seed, 25, 0 if conversations else concurrency, hash_block=hash_block, conversations=conversations, images=images
    )
    assert_same(table, limits, kv_tokens, prefill, discipline, estimate, tower, speculation)
