"""Replicas with prefix caches and vision towers are the engine with them; routers know of a cache what they saw."""

from __future__ import annotations

import math
from dataclasses import replace

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from batchpilot import SLO, Limits, RequestTable, SaturationParameters, simulate
from batchpilot.engines import EngineConfig
from batchpilot.engines.scheduler.state import ABSENT
from batchpilot.fleet import Fault, Fleet, Link, ReplicaSpec, Router, simulate_fleet
from batchpilot.fleet.arrays import new_views
from batchpilot.fleet.routers import RULES
from batchpilot.fleet.routing import is_believed_cached
from batchpilot.fleet.rules import predicted_ttft_ms
from batchpilot.latency.model.vision_tower import VisionTower
from batchpilot.workloads.images import Images
from batchpilot.workloads.prefixes import Prefixes
from batchpilot.workloads.sharing import SharedLevel, draw_prefixes

LATENCY = SaturationParameters(p_max=12.0, k_b=10.0, k_s=0.008, tau_0=5.0, tau_b=0.02, tau_c=3e-4)
LIMITS = Limits(16, 512)
LEVELS = [SharedLevel(64), SharedLevel(400, kinds=40, share=0.9)]
TOWER = VisionTower(pass_ms=3.0, token_ms=0.02, feature_cache=20)
LINK = Link(10.0, 131_072.0, 2.0)


def table(n: int = 120, gap_ms: float = 30.0, seed: int = 0, images: int = 0) -> RequestTable:
    rng = np.random.default_rng(seed)
    prompts = rng.integers(256 if images else 80, 700, n)
    many = (n, images)
    shown = Images.from_arrays(np.where(rng.random(many) < 0.6, 224, 0), rng.integers(0, 40, many)) if images else None
    prompts += 256 * max(images - 1, 0)
    return RequestTable.from_arrays(
        np.cumsum(rng.exponential(gap_ms, n)),
        prompts,
        rng.integers(1, 40, n),
        slos=SLO(2000.0, 60.0),
        prefixes=None if images else draw_prefixes(prompts, LEVELS, 16, rng),
        images=shown,
    )


def replica(count: int = 1, *, cache: bool = True, limits: Limits = LIMITS, **changes: object) -> ReplicaSpec:
    engine = EngineConfig(LATENCY, estimate=LATENCY, kv_capacity_tokens=8000, prefix_cache=cache, vision=TOWER)
    return ReplicaSpec(engine, limits, count=count, **{"startup_s": 1.0, **changes})  # type: ignore[arg-type]


def assert_nothing_is_held(fleet: Fleet) -> None:
    """No block is held by anybody, each cached one is idle, and all count as free."""
    state = fleet.replicas.state
    for i, view in enumerate(fleet.replicas.views):
        if view.on and not view.dead:
            assert state.clock[i].free_blocks == state.clock[i].total_blocks
            holders = np.asarray(state.contents)["holders"][i] if state.clock[i].prefix_cache else np.zeros(0)
            assert (holders <= 0).all()
            assert (holders == 0).sum() == state.clock[i].n_idle <= state.clock[i].total_blocks


@pytest.mark.parametrize("rule", ["round-robin", "least-tokens", "predicted-ttft", "prefix"])
@pytest.mark.parametrize("poll_ms", [0.0, 300.0])
def test_a_fleet_of_one_with_a_cache_is_the_engine_with_it(rule, poll_ms):
    requests, limits = table(), LIMITS.replace(ttft_guard=1.0, max_queued_tokens=2000)
    alone = simulate(requests, LATENCY, limits, estimate=LATENCY, kv_capacity_tokens=8000, prefix_cache=True)
    fleet = simulate_fleet(requests, replica(limits=limits), Router(rule, poll_ms=poll_ms))
    assert np.array_equal(fleet.served.finish_code, alone.finish_code)
    assert np.array_equal(fleet.served.cached_tokens, alone.cached_tokens)
    np.testing.assert_allclose(fleet.served.e2e_ms, alone.e2e_ms)
    np.testing.assert_allclose(fleet.served.ttft_ms, alone.ttft_ms)
    assert 0.2 < alone.prefix_hit_rate < 0.9
    assert fleet.prefix_hit_rate == pytest.approx(alone.prefix_hit_rate)
    assert fleet.prefix_hit_rates() == pytest.approx([alone.prefix_hit_rate])


@pytest.mark.parametrize("kind", ["images", "images behind text", "several images"])
def test_a_fleet_of_one_with_images_is_the_engine_with_them(kind):
    requests = table(images=3 if kind == "several images" else 1)
    if kind == "images behind text":
        texts = [[int(image >= 0)] * 1 for image in requests.images.contents()[:, 0]]
        requests = replace(requests, prefixes=Prefixes.from_lists(texts, 16))
    alone = simulate(
        requests, LATENCY, LIMITS, estimate=LATENCY, kv_capacity_tokens=8000, prefix_cache=True, vision=TOWER
    )
    fleet = simulate_fleet(requests, replica(), Router("least-tokens", poll_ms=200.0))
    np.testing.assert_allclose(fleet.served.e2e_ms, alone.e2e_ms)
    assert 0 < alone.image_hit_rate < 1
    assert fleet.image_hit_rate == alone.image_hit_rate == fleet.summary()["image_hit_rate"]


def test_images_cost_every_replica_that_computes_prompts():
    requests = table(400, 15.0, images=1)
    with_images, text = (simulate_fleet(one, replica(3)) for one in (requests, replace(requests, images=None)))
    assert with_images.served.e2e_ms.mean() > text.served.e2e_ms.mean() + TOWER.pass_ms / 2
    assert "image_hit_rate" not in text.summary()
    pools = [replica(2, role="prefill", name="prefill"), replica(1, role="decode", name="decode")]
    split = simulate_fleet(requests, pools, link=LINK)
    assert split.served.count("length") == len(requests)
    assert split.found is not None
    assert split.found.images.sum() == requests.images.each.sum()


def test_the_longest_cached_prefix_finds_more_than_taking_turns():
    requests = table(600, 12.0)
    turns, known = (simulate_fleet(requests, replica(4), rule) for rule in ("round-robin", "prefix"))
    stale = simulate_fleet(requests, replica(4), Router("prefix", poll_ms=1000.0))
    assert known.prefix_hit_rate > turns.prefix_hit_rate + 0.1
    assert stale.prefix_hit_rate > turns.prefix_hit_rate + 0.1
    assert known.summary()["prefix_hit_rate"] == known.prefix_hit_rate
    assert known.by_replica().min() > 60  # and nobody is left idle


def test_without_the_cache_hashes_change_nothing():
    requests = table(200, 10.0)
    off, bare = (
        simulate_fleet(one, replica(3, cache=False), "prefix") for one in (requests, replace(requests, prefixes=None))
    )
    assert np.array_equal(off.served.e2e_ms, bare.served.e2e_ms)
    assert np.array_equal(off.replica, bare.replica)
    assert off.prefix_hit_rate == 0


@pytest.mark.parametrize("counts_sent", [False, True])
def test_a_router_believes_of_a_cache_what_it_had_at_the_last_look(counts_sent):
    """Run in pieces a fleet stands at the moment of a look, and goes on beyond it before the next one."""
    requests = table(400, 12.0, seed=3)
    fleet = Fleet(requests, [replica(2)], Router("round-robin", poll_ms=500.0, counts_sent=counts_sent))
    moved = 0
    for poll_ms in np.arange(500.0, 4000.0, 500.0):
        fleet.run_until(float(poll_ms))
        state = fleet.replicas.state
        different = fleet.replicas.prompts.blocks
        before = np.asarray(state.contents)["holders"][:, :different] != ABSENT
        fleet.run_until(float(poll_ms) + 240.0)
        state, arrays = fleet.replicas.state, fleet._door.arrays
        now = np.asarray(state.contents)["holders"][:, :different] != ABSENT
        moved += int((now != before).sum())
        believed = np.array(
            [[is_believed_cached(state, arrays, i, content) for content in range(now.shape[1])] for i in range(2)]
        )
        if counts_sent:
            assert (believed >= before).all()
            assert (believed > before).any()
        else:
            assert np.array_equal(believed, before)
    assert moved > 50


def test_tokens_that_wait_or_were_sent_are_those_to_be_computed():
    requests = RequestTable.from_arrays(
        [0.0, 2000.0, 2000.0], [320] * 3, [5] * 3, slos=SLO(1e5, 1e5), prefixes=Prefixes.from_lists([range(20)] * 3, 16)
    )
    fleet = Fleet(requests, [replica()], Router("least-tokens", poll_ms=1000.0))
    fleet.run_until(2000.5)
    assert fleet.replicas.views[0].sent_tokens == 2 * (320 - 304)  # a prompt's last token is always computed
    view = new_views(1)[0]
    view["full_step_tokens"], view["full_step_ms"], view["held"] = 100.0, 10.0, 250
    assert predicted_ttft_ms(new_views(1).view(np.recarray)[0], 320.0) == 320.0
    fresh = Fleet(requests, [replica(limits=Limits(1, 64))], Router("least-tokens"))
    fresh.run_until(2001.0)
    assert fresh.replicas.views[0].queued_tokens == 16  # the second of those that came together sees the first wait


def test_a_replica_that_died_comes_back_with_an_empty_cache():
    times = [0.0, 500.0, 3500.0, 4500.0]
    requests = RequestTable.from_arrays(
        times, [320] * 4, [5] * 4, slos=SLO(1e5, 1e5), prefixes=Prefixes.from_lists([range(20)] * 4, 16)
    )
    for poll_ms in (0.0, 100.0):
        result = simulate_fleet(
            requests, replica(), Router("prefix", poll_ms=poll_ms), faults=[Fault(1000.0, 0, "dies", 1000.0)]
        )
        assert result.served.cached_tokens.tolist() == [0, 304, 0, 304]
        assert result.prefix_hit_rate == pytest.approx(2 * 304 / (4 * 320))


def in_turns(cache: bool = True, kv_tokens: int = 8000) -> tuple[RequestTable, list[ReplicaSpec]]:
    """Three turns of one conversation, the second with all before it and 36 tokens, the third an end of its own; pools.

    The first's prompt is 320 tokens, 20 blocks; with its answer of 37 it is 356 computed ones, 22 full blocks.
    """
    turns = Prefixes.from_lists([range(22), [*range(22), 100, 101], [*range(10), *range(200, 210)]], 16)
    requests = RequestTable.from_arrays(
        [0.0, 4e3, 8e3], [320, 392, 330], [37, 5, 5], slos=SLO(1e5, 1e5), prefixes=turns
    )
    pools = [replica(role="prefill", name="prefill"), replica(role="decode", name="decode", cache=cache)]
    return requests, [replace(one, engine=replace(one.engine, kv_capacity_tokens=kv_tokens)) for one in pools]


@pytest.mark.parametrize("cache", [False, True])
def test_a_decoder_is_sent_what_it_does_not_hold_of_a_prompt_and_keeps_what_it_said(cache):
    requests, pools = in_turns(cache)
    result = simulate_fleet(requests, pools, link=LINK)
    moved = [320, 392 - 352, 330 - 160] if cache else [320, 392, 330]
    assert result.moved_tokens.tolist() == moved
    assert result.summary()["moved_tokens"] == sum(moved)
    assert result.handover_ms.tolist() == pytest.approx([tokens * LINK.ms_per_token + 2.0 for tokens in moved])
    decode = sum(float(LATENCY.predict(1, 1, context)) for context in range(392, 396))
    assert result.served.e2e_ms[1] == pytest.approx(result.served.ttft_ms[1] + result.handover_ms[1] + decode)


def test_a_prompt_that_a_decoder_has_whole_is_not_moved_at_all():
    requests = RequestTable.from_arrays(
        [0.0, 3e3], [320] * 2, [9, 9], slos=SLO(1e5, 1e5), prefixes=Prefixes.from_lists([range(20)] * 2, 16)
    )
    result = simulate_fleet(requests, in_turns()[1], link=LINK)
    assert result.moved_tokens.tolist() == [320, 0]
    assert result.handover_ms[1] == pytest.approx(LINK.latency_ms)


def test_who_holds_its_blocks_goes_on_when_the_last_that_ran_has_to_make_way():
    """Both together fill the decoder just as the first needs one block more: it goes back, the second has its own."""
    texts = Prefixes.from_lists([range(20), range(100, 122)], 16)
    requests = RequestTable.from_arrays([0.0, 222.0], [320, 383], [100, 5], slos=SLO(1e5, 1e5), prefixes=texts)
    _, pools = in_turns(kv_tokens=720)
    pools[0] = replace(pools[0], engine=replace(pools[0].engine, kv_capacity_tokens=8000))
    fleet = Fleet(requests, pools, Router(), link=Link(50.0, 131_072.0))
    fleet.run_until(math.inf)
    result = fleet.result()
    assert result.served.finish_reason == ["length"] * 2
    assert fleet.replicas.state.window[1].preemptions == 1
    end_ms = requests.arrival_ms + result.served.e2e_ms
    assert end_ms[1] < end_ms[0]
    assert_nothing_is_held(fleet)


def test_blocks_that_were_held_for_kv_that_never_comes_are_free_again():
    requests = RequestTable.from_arrays(
        [0.0, 4e3], [320, 392], [37, 5], slos=SLO(1e5, 1e5), prefixes=Prefixes.from_lists([range(22), range(24)], 16)
    )
    fleet = Fleet(requests, in_turns()[1], Router(retries=0), link=Link(0.05, 131_072.0), faults=[Fault(4060.0, 0)])
    fleet.run_until(4050.0)
    clock = fleet.replicas.state.clock[1]
    assert clock.total_blocks - clock.free_blocks == 25  # 22 of them were there and are held for who comes
    fleet.run_until(math.inf)
    assert fleet.result().served.finish_reason == ["length", "failed"]
    assert_nothing_is_held(fleet)


def test_prefill_replicas_keep_what_they_computed():
    requests = table(200, 25.0)
    pools = [replica(2, role="prefill", name="prefill"), replica(2, role="decode", name="decode")]
    fleet = Fleet(requests, pools, Router("prefix"), link=LINK)
    fleet.run_until(math.inf)
    result = fleet.result()
    assert result.served.count("length") == len(requests)
    assert result.prefix_hit_rate > 0.3
    assert np.isnan(result.prefix_hit_rates()[2:]).all()
    without = simulate_fleet(
        requests, [replace(one, engine=replace(one.engine, prefix_cache=False)) for one in pools], "prefix", link=LINK
    )
    assert result.served.ttft_ms.mean() < without.served.ttft_ms.mean()
    assert_nothing_is_held(fleet)


@settings(max_examples=20, deadline=None)
@given(
    seed=st.integers(0, 1000),
    rule=st.sampled_from(sorted(RULES)),
    poll_ms=st.sampled_from([0.0, 100.0, 1000.0]),
    pooled=st.booleans(),
    images=st.sampled_from([0, 1, 3]),
    kv_tokens=st.sampled_from([1600, 8000]),
    faults=st.lists(
        st.tuples(
            st.floats(0, 3000), st.integers(0, 2), st.sampled_from(["dies", "hangs", "slows"]), st.floats(1, 2000)
        ),
        max_size=3,
    ),
)
def test_blocks_neither_leak_nor_are_freed_twice(seed, rule, poll_ms, pooled, images, kv_tokens, faults):
    requests = table(60, 30.0, seed, images)
    one = replica(3)
    one = replace(one, engine=replace(one.engine, kv_capacity_tokens=kv_tokens))
    specs = [replace(one, role="prefill", count=2), replace(one, role="decode", count=1)] if pooled else [one]
    befalls = [Fault(at, i, kind, lasting) for at, i, kind, lasting in faults]
    router = Router(rule, poll_ms=poll_ms, retries=2)
    fleet = Fleet(requests, specs, router, link=LINK if pooled else None, faults=befalls, health_ms=200.0, seed=seed)
    fleet.run_until(math.inf)
    result = fleet.result()
    ended = sum(
        result.served.count(reason) for reason in ("length", "refused_on_arrival", "refused_by_guard", "failed")
    )
    assert ended == len(requests)
    finished = result.served.finish_code == 1
    assert np.array_equal(result.served.generated_tokens[finished], requests.output_tokens[finished])
    assert_nothing_is_held(fleet)
