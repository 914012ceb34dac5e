"""Images: what must hold whatever is asked, what encoding costs, and who goes first by priority and size."""

import math
from dataclasses import replace

import numpy as np
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from batchpilot import SLO, Limits, RequestTable, SaturationParameters, simulate
from batchpilot.configs import catalogue
from batchpilot.configs.scenario import scenario
from batchpilot.core.limit_arrays import limit_arrays
from batchpilot.engines import EngineConfig, SimulatedEngine
from batchpilot.envs.rows import SimulationRows
from batchpilot.envs.scenarios import prepare
from batchpilot.latency.model.vision_tower import TOWERS, VisionTower, tower_on
from batchpilot.workloads.images import Images
from batchpilot.workloads.prefixes import Prefixes
from batchpilot.workloads.table import concatenate

LATENCY = SaturationParameters(p_max=12.0, k_b=10.0, k_s=0.01, tau_0=5.0, tau_b=0.02, tau_c=3e-4)
TOWER = VisionTower(pass_ms=10.0, token_ms=0.05)


def with_images(side_px, number=None, text=50, output=4, gap_ms=0.0, **columns):
    images = Images.from_arrays(side_px, number)
    arrival = gap_ms * np.arange(len(images))
    return RequestTable.from_arrays(arrival, images.tokens + text, output, images=images, **columns)


@st.composite
def tables(draw):
    rng = np.random.default_rng(draw(st.integers(0, 2**32 - 1)))
    n = draw(st.integers(1, 50))
    gap = draw(st.sampled_from([0.0, 20.0, 200.0]))
    many = (n, draw(st.sampled_from([1, 1, 3])))
    images = Images.from_arrays(rng.choice([0, 224, 336, 448], many), rng.integers(0, 6, many), rng.integers(0, 60, n))
    return RequestTable.from_arrays(
        np.cumsum(rng.exponential(gap, n)) if gap else np.zeros(n),
        images.end_tokens + rng.integers(1, 300, n),
        rng.integers(1, 60, n),
        priority=rng.integers(0, 3, n),
        slos=SLO(1500.0, 80.0),
        concurrency=draw(st.sampled_from([0, 0, 4])),
        images=images,
    )


limits_of_any_kind = st.builds(
    Limits,
    batch_size=st.integers(1, 30),
    token_budget=st.one_of(st.none(), st.integers(1, 2000)),
    max_queued_tokens=st.one_of(st.none(), st.integers(0, 6000)),
    max_wait_ms=st.one_of(st.none(), st.floats(0.0, 200.0)),
    step_target_ms=st.one_of(st.none(), st.floats(0.5, 100.0)),
    ttft_guard=st.one_of(st.none(), st.floats(0.05, 3.0)),
    max_padding_share=st.one_of(st.none(), st.floats(0.0, 0.5)),
    discipline=st.sampled_from(["fcfs", "spf", "slo", "priority", "deadline", "vision"]),
)
towers = st.builds(
    VisionTower, st.floats(0.0, 50.0), st.floats(0.0, 0.2), st.integers(0, 8), st.sampled_from([1, 3, 32])
)
modes = st.sampled_from(
    [("continuous", "chunked"), ("continuous", "whole"), ("continuous", "selective"), ("static", "chunked")]
)
kv_tokens = st.integers(2000, 8000)
lawful = settings(max_examples=80, deadline=None, suppress_health_check=[HealthCheck.too_slow])


def kept_features(state):
    """Images whose features are kept, least recently used first, by way of their links, which must agree."""
    clock, images, line = state.clock[0], state.images, []
    image, older = int(clock.feature_first), -1
    while image >= 0:
        assert images["older"][image] == older
        line.append(image)
        image, older = int(images["newer"][image]), image
    assert clock.feature_last == older
    return line


@lawful
@given(tables(), limits_of_any_kind, modes, kv_tokens, towers, st.lists(st.integers(0, 49), max_size=3))
def test_no_more_features_are_kept_than_there_is_room_for(table, limits, mode, kv, tower, cancelled):
    config = EngineConfig(LATENCY, kv_capacity_tokens=kv, mode=mode[0], prefill=mode[1], vision=tower)
    engine = SimulatedEngine(config, table)
    engine.set_limits(limits)
    done = False
    while not done:
        done = engine.run_until(engine.now_ms + 25.0)
        for request in cancelled[:1]:
            engine.cancel(request % len(table))
            cancelled = cancelled[1:]
        line = kept_features(engine.state)
        assert len(line) == len(set(line)) == engine.state.clock[0].n_features <= tower.feature_cache
        assert np.flatnonzero(engine.state.images["kept"]).tolist() == sorted(line)


@lawful
@given(tables(), limits_of_any_kind, modes, kv_tokens, towers, st.booleans())
def test_hits_and_what_is_encoded_add_up_to_the_images_and_no_token_is_lost(table, limits, mode, kv, tower, caches):
    options = {"kv_capacity_tokens": kv, "mode": mode[0], "prefill": mode[1], "vision": tower, "record_steps": True}
    result = simulate(table, LATENCY, limits, **options, prefix_cache=caches and mode[0] == "continuous")
    windows = result.windows
    images, hits = sum(w.images for w in windows), sum(w.image_hits for w in windows)
    if result.preemptions == 0 and sum(w.failures for w in windows) == 0:
        assert table.images.each[np.isfinite(result.ttft_ms)].sum() == images
    if tower.pass_ms + tower.token_ms == 0:
        assert result.encode_ms == 0
    else:
        assert (images - hits) * tower.token_ms * 256 <= result.encode_ms + 1e-6
        assert result.encode_ms <= (images - hits) * (tower.pass_ms + 1024 * tower.token_ms) + 1e-6
    finished = np.array(result.finish_reason) == "length"
    np.testing.assert_array_equal(result.generated_tokens[finished], table.output_tokens[finished])
    assert result.useful_tokens == (table.prompt_tokens + table.output_tokens - 1)[finished].sum()
    assert result.computed_tokens == result.step_log[:, 2].sum()
    busy = sum(w.busy_ms for w in windows)
    assert busy == pytest.approx(result.step_log[:, 4].sum() + result.encode_ms)


@lawful
@given(tables(), limits_of_any_kind, modes, kv_tokens)
def test_images_that_cost_nothing_are_as_many_tokens_of_text(table, limits, mode, kv):
    limits = limits.replace(discipline="fcfs" if limits.discipline == "vision" else limits.discipline)
    text = replace(table, images=None)
    shown, plain = (
        simulate(one, LATENCY, limits, kv_capacity_tokens=kv, mode=mode[0], prefill=mode[1], record_steps=True)
        for one in (table, text)
    )
    np.testing.assert_array_equal(shown.step_log, plain.step_log)
    np.testing.assert_array_equal(shown.e2e_ms, plain.e2e_ms)


@lawful
@given(tables(), limits_of_any_kind, modes, kv_tokens, towers)
def test_nobody_waits_longer_than_the_guard_allows_with_images(table, limits, mode, kv, tower):
    options = {"kv_capacity_tokens": kv, "mode": mode[0], "prefill": mode[1], "vision": tower}
    result = simulate(table, LATENCY, limits, **options)
    refused = np.array(result.finish_reason) == "refused_by_guard"
    if limits.ttft_guard is None:
        assert not refused.any()
    else:
        assert np.all(result.e2e_ms[refused] <= limits.ttft_guard * table.ttft_target_ms[refused] + 1e-6)


@pytest.mark.parametrize(("side_px", "tokens"), [(224, 256), (336, 576), (448, 1024)])
def test_a_request_alone_takes_its_encoding_its_tokens_and_nothing_else(side_px, tokens):
    result = simulate(with_images([side_px]), LATENCY, Limits(1), vision=TOWER)
    encode_ms = 10.0 + 0.05 * tokens
    prefill_ms = LATENCY.predict_one(1, tokens + 50)
    assert result.ttft_ms[0] == pytest.approx(encode_ms + prefill_ms)
    decode_ms = (result.e2e_ms[0] - result.ttft_ms[0]) / 3
    assert result.e2e_ms[0] == pytest.approx(TOWER.total_ms(side_px, 3, decode_ms, prefill_ms))
    assert result.encode_ms == pytest.approx(TOWER.encode_ms(side_px))


def test_images_of_one_size_are_encoded_together_and_others_in_a_pass_of_their_own():
    limits = Limits(8)
    assert simulate(with_images([224] * 4), LATENCY, limits, vision=TOWER).encode_ms == pytest.approx(10 + 0.05 * 1024)
    mixed = simulate(with_images([224, 448, 224]), LATENCY, limits, vision=TOWER)
    assert mixed.encode_ms == pytest.approx(2 * 10 + 0.05 * (512 + 1024))
    alone = VisionTower(10.0, 0.05, together=1)
    assert simulate(with_images([224] * 4), LATENCY, limits, vision=alone).encode_ms == pytest.approx(40 + 0.05 * 1024)


def test_a_padded_batch_encodes_its_images_before_its_prompts():
    table = with_images([224] * 4)
    result = simulate(table, LATENCY, Limits(4, max_wait_ms=0.0), mode="static", vision=TOWER)
    encode_ms = 10 + 0.05 * 1024
    assert result.encode_ms == pytest.approx(encode_ms)
    assert result.ttft_ms[0] == pytest.approx(encode_ms + LATENCY.predict_one(4, 4 * 306))


def test_an_image_that_was_asked_about_before_costs_no_encoding():
    table = with_images([336, 336, 336, 448], [7, 8, 7, 7], gap_ms=10_000.0)
    result = simulate(table, LATENCY, Limits(4), vision=TOWER)
    assert result.image_hit_rate == 0.25
    assert result.ttft_ms[2] == pytest.approx(result.ttft_ms[0] - TOWER.encode_ms(336))
    assert result.ttft_ms[1] == pytest.approx(result.ttft_ms[0])


def test_the_least_recently_used_features_are_dropped():
    def hits(order, room):
        table = with_images([224] * len(order), ["abc".index(name) for name in order], gap_ms=10_000.0)
        tower = VisionTower(10.0, 0.05, feature_cache=room)
        return simulate(table, LATENCY, Limits(1), vision=tower).image_hit_rate * len(order)

    assert hits("abab", 2) == 2
    assert hits("abcab", 2) == 0
    assert hits("abacab", 2) == pytest.approx(2)
    assert hits("abab", 0) == 0


def test_an_image_whose_kv_blocks_are_cached_is_not_encoded_again():
    images = Images.from_arrays([336, 336], [1, 1])
    prefixes = Prefixes.from_lists([range(36)] * 2, 16)
    table = RequestTable.from_arrays([0.0, 10_000.0], 600, 4, images=images, prefixes=prefixes)
    tower = VisionTower(10.0, 0.05, feature_cache=0)
    cached = simulate(table, LATENCY, Limits(2), vision=tower, prefix_cache=True)
    assert cached.image_hit_rate == 0.5
    assert cached.encode_ms == pytest.approx(tower.encode_ms(336))
    assert simulate(table, LATENCY, Limits(2), vision=tower).encode_ms == pytest.approx(2 * tower.encode_ms(336))


def test_the_guard_counts_encoding_and_knows_which_features_are_kept():
    # 600 ms of encoding leave too little of a promise of 500 ms, unless the features are kept.
    tower = VisionTower(pass_ms=500.0, token_ms=0.2)
    table = with_images(
        [448, 448, 448], [1, 1, 2], gap_ms=5000.0, slos=[SLO(math.inf, 1000.0), SLO(500.0, 1000.0)], slo_class=[0, 1, 1]
    )
    result = simulate(table, LATENCY, Limits(4, ttft_guard=1.0), vision=tower, estimate=LATENCY)
    assert result.finish_reason == ["length", "length", "refused_by_guard"]
    assert result.e2e_ms[2] == 0.0


def test_under_vision_a_high_priority_request_goes_before_anything_else_after_80_ms():
    running_ms = simulate(with_images([0], output=40), LATENCY, Limits(1)).e2e_ms[0]

    def goes_first(waited_ms):
        # Beside it four of one size wait that have just come, which is worth more than its priority.
        images = Images.from_arrays([0, 448, 224, 224, 224, 224])
        arrival_ms = running_ms - np.array([running_ms, waited_ms, 10.0, 10.0, 10.0, 10.0])
        prompt_tokens, output_tokens = images.tokens + 50, [40, 2, 2, 2, 2, 2]
        table = RequestTable.from_arrays(
            arrival_ms, prompt_tokens, output_tokens, priority=[1, 0, 1, 1, 1, 1], images=images
        )
        result = simulate(table, LATENCY, Limits(1, discipline="vision"))
        return np.argsort(table.arrival_ms + result.ttft_ms)[1] == 1

    assert goes_first(waited_ms=81.0)
    assert not goes_first(waited_ms=79.0)


def test_under_vision_the_queue_goes_first_that_is_long_for_its_wait_and_weight():
    images = Images.from_arrays([0, 448, 224, 224, 224])
    table = RequestTable.from_arrays(
        [0.0, 10.0, 10.0, 10.0, 10.0], images.tokens + 10, [40, 2, 2, 2, 2], priority=[1, 1, 1, 1, 1], images=images
    )
    vision, fcfs = (simulate(table, LATENCY, Limits(1, discipline=d)) for d in ("vision", "fcfs"))
    assert np.argmin(fcfs.ttft_ms[1:]) == 0
    assert np.argmin(vision.ttft_ms[1:]) == 1, "three of 224 px go before one of 448 px"
    urgent = replace(table, priority=np.array([1, 0, 1, 1, 1]))
    assert np.argmin(simulate(urgent, LATENCY, Limits(1, discipline="vision")).ttft_ms[1:]) == 0


def test_a_prompt_shorter_than_its_image_is_refused_in_words():
    with pytest.raises(
        ValueError, match="prompt_tokens of request 1 is 500, but its image of 336 px ends at token 576"
    ):
        RequestTable.from_arrays([0, 1], [600, 500], 4, images=Images.from_arrays([0, 336]))
    with pytest.raises(ValueError, match="side_px of request 0 is 300; it must be 224, 336, 448"):
        Images.from_arrays([300])


def test_images_of_merged_and_looped_tables_are_different_ones():
    table = with_images([336, 0, 336], [5, 5, 5], gap_ms=1000.0)
    merged = concatenate([table, table])
    assert simulate(merged, LATENCY, Limits(4), vision=TOWER).image_hit_rate == 0.5
    looped = table.loop(6000.0)
    assert len(looped) == 6
    assert len(np.unique(looped.images.contents()[looped.images.shown])) == 2
    several = with_images([[224, 336], [0, 0], [336, 0]], [[1, 1], [0, 0], [1, 0]])
    joined = concatenate([table, several]).images
    assert joined.most == 2
    assert len(np.unique(joined.contents()[joined.each])) == 3


def test_a_larger_tower_and_a_slower_device_take_longer():
    h100, a100 = (catalogue.device(name) for name in ("H100-80GB", "A100-80GB"))
    times = [tower_on(h100, name).encode_ms(336) for name in TOWERS]
    assert times == sorted(times)
    assert tower_on(a100, "clip-vit-l14").encode_ms(336, 32) > tower_on(h100, "clip-vit-l14").encode_ms(336, 32)
    assert 1.0 < times[0] < 4.8
    with pytest.raises(ValueError, match="clip-vit-l14"):
        tower_on(h100, "clip-vit-l4")


def test_many_engines_side_by_side_encode_as_one_does():
    tables = [with_images([224, 448, 224, 0], [1, 2, 1, 0], gap_ms=30.0), with_images([0, 0])]
    engine = EngineConfig(LATENCY, estimate=LATENCY, vision=TOWER)
    limits = Limits(8, token_budget=1024, discipline="vision")
    rows = SimulationRows(2)
    run = prepare(scenario("quick-shift"), 0)
    for i, table in enumerate(tables):
        rows.load(i, replace(run, engine=engine, requests=table))
    rows.set_limits(limit_arrays([limits, limits]))
    rows.run_until(np.array([3000.0, 3000.0]))
    for i, table in enumerate(tables):
        alone = SimulatedEngine(engine, table)
        alone.set_limits(limits)
        window, _ = alone.run_window(3000.0)
        for name in ("images", "image_hits", "encode_ms", "busy_ms", "generated_tokens"):
            assert rows.metrics[i][name] == getattr(window, name), name
    assert rows.metrics[0]["image_hits"] == 1


def test_all_images_of_a_request_are_encoded_before_its_prompt_one_shown_twice_once():
    table = with_images([[224, 448, 224, 224], [336, 0, 0, 0]], [[1, 1, 2, 1], [1, 0, 0, 0]], gap_ms=10_000.0)
    result = simulate(table, LATENCY, Limits(4), vision=TOWER)
    both_sizes = 2 * 10 + 0.05 * (2 * 256 + 1024)
    tokens = int(table.prompt_tokens[0])
    assert result.ttft_ms[0] == pytest.approx(both_sizes + LATENCY.predict_one(1, tokens))
    assert tokens == 50 + 3 * 256 + 1024
    assert result.encode_ms == pytest.approx(both_sizes + TOWER.encode_ms(336))
    assert result.image_hit_rate == pytest.approx(1 / 5), "the one that is shown twice"


def test_several_images_are_found_one_by_one_and_behind_cached_tokens_alone_are_encoded():
    table = with_images([[224, 224], [224, 224], [224, 0]], [[1, 2], [3, 1], [3, 0]], gap_ms=10_000.0)
    assert simulate(table, LATENCY, Limits(4), vision=TOWER).image_hit_rate == pytest.approx(2 / 5)
    small = replace(TOWER, feature_cache=1)
    assert simulate(table, LATENCY, Limits(4), vision=small).image_hit_rate == 0
    # The first image is in cached blocks, the second is not; nothing is kept.
    prefixes = Prefixes.from_lists([range(16), range(16)], 16)
    two = with_images([[224, 224], [224, 224]], [[1, 2], [1, 2]], gap_ms=10_000.0, prefixes=prefixes)
    kept = simulate(two, LATENCY, Limits(4), vision=replace(TOWER, feature_cache=0), prefix_cache=True)
    assert kept.cached_tokens.tolist() == [0, 256]
    assert kept.image_hit_rate == pytest.approx(1 / 4)


def test_under_vision_a_request_waits_with_those_of_its_largest_image():
    images = Images.from_arrays([[0, 0], [224, 0], [224, 224], [448, 0], [224, 448], [224, 448]])
    arrival_ms = [0.0, 10.0, 10.0, 10.0, 10.0, 10.0]
    table = RequestTable.from_arrays(arrival_ms, images.tokens + 10, [40, 2, 2, 2, 2, 2], images=images)
    result = simulate(table, LATENCY, Limits(1, discipline="vision"))
    assert np.argmin(result.ttft_ms[1:]) == 2, "three of up to 448 px go before two of 224 px"


@lawful
@given(tables(), st.integers(0, 8))
def test_which_images_are_encoded_one_by_one_is_what_the_engine_does(table, room):
    apart = replace(table, arrival_ms=1e5 * np.arange(len(table)), concurrency=0)
    tower = VisionTower(0.0, 0.01, feature_cache=room)
    result = simulate(apart, LATENCY, Limits(1), kv_capacity_tokens=20_000, vision=tower)
    encoded = apart.images.encoded(room)
    assert result.encode_ms == pytest.approx(0.01 * ((apart.images.side_px // 14) ** 2)[encoded].sum())
    assert sum(w.image_hits for w in result.windows) == (apart.images.each & ~encoded).sum()


def test_images_that_overlap_and_too_many_of_them_are_refused_in_words():
    with pytest.raises(ValueError, match="images of request 1 overlap"):
        Images.from_arrays([[224, 224], [224, 224]], before_tokens=[[0, 256], [0, 200]])
    with pytest.raises(ValueError, match=r"up to 8 each"):
        Images.from_arrays(np.full((2, 9), 224))
