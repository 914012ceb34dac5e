"""Tables served one after another are one run: the same requests, the same windows, to the bit."""

from dataclasses import replace
from itertools import pairwise

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from batchpilot.baselines import SERVER_DEFAULT
from batchpilot.core import SLO, Limits
from batchpilot.engines import simulate
from batchpilot.engines.simulated.config import EngineConfig
from batchpilot.engines.simulated.stream import simulate_stream
from batchpilot.latency import SaturationParameters
from batchpilot.latency.model.vision_tower import VisionTower
from batchpilot.tuners import make_tuner
from batchpilot.workloads import RequestTable
from batchpilot.workloads.images import Images
from batchpilot.workloads.prefixes import Prefixes
from batchpilot.workloads.sharing import SharedLevel, draw_prefixes
from batchpilot.workloads.turns import ALONE, Turns

LATENCY = SaturationParameters(p_max=8.0, k_b=0.15, k_s=0.004, tau_0=8.0, tau_b=0.1, tau_c=1e-4)
LEVELS = [SharedLevel(64), SharedLevel(300, kinds=30, share=0.9)]
COLUMNS = ("ttft_ms", "e2e_ms", "tpot_ms", "generated_tokens", "finish_code", "slo_met")


def requests(n, seed, rate=12.0, users=1):
    rng = np.random.default_rng(seed)
    return RequestTable.from_arrays(
        np.cumsum(rng.exponential(1000.0 / rate, n)),
        rng.integers(1, 600, n),
        rng.integers(1, 120, n),
        user=rng.integers(0, users, n) * 7,
        priority=rng.integers(0, 3, n),
        slos=SLO(800.0, 60.0),
    )


def parts(table, cuts):
    edges = [0, *sorted(cuts), len(table)]
    return [table.select(slice(begin, end)) for begin, end in pairwise(edges)]


def whole(results):
    """Requests of all results by arrival and prompt, and all windows."""
    results = list(results)
    columns = {name: np.concatenate([getattr(result, name) for result in results]) for name in COLUMNS}
    arrival = np.concatenate([result.requests.arrival_ms for result in results])
    order = np.argsort(arrival, kind="stable")
    return (
        {name: column[order] for name, column in columns.items()},
        [w for r in results for w in r.windows],
        results[-1],
    )


def assert_same(stream, at_once):
    columns, windows, last = whole(stream)
    for name, column in columns.items():
        np.testing.assert_array_equal(column, getattr(at_once, name), err_msg=name)
    assert list(map(repr, windows)) == list(map(repr, at_once.windows))  # NaN is not equal to itself
    assert (last.elapsed_ms, last.computed_tokens) == (at_once.elapsed_ms, at_once.computed_tokens)


@settings(max_examples=25, deadline=None)
@given(
    seed=st.integers(0, 1000),
    cuts=st.lists(st.integers(1, 399), max_size=5),
    rate=st.sampled_from([3.0, 12.0, 40.0]),
    discipline=st.sampled_from(["fcfs", "sjf", "slo", "fair", "priority"]),
)
def test_tables_in_a_row_are_one_run(seed, cuts, rate, discipline):
    table = requests(400, seed, rate, users=5)
    limits = Limits(16, token_budget=512, max_queued_tokens=6000, ttft_guard=1.0, step_target_ms=50.0)
    config = EngineConfig(latency=LATENCY, kv_capacity_tokens=6000, discipline=discipline, noise=0.1, seed=seed)
    at_once = simulate(
        table, LATENCY, limits, kv_capacity_tokens=6000, discipline=discipline, noise=0.1, seed=seed, window_ms=500.0
    )
    assert_same(simulate_stream(parts(table, cuts), config, limits, window_ms=500.0), at_once)


@pytest.mark.parametrize("tuner", ["hybrid", "aimd"])
def test_a_tuner_decides_over_tables_as_over_one(tuner):
    table = requests(1500, 3, rate=40.0)
    at_once = simulate(table, LATENCY, make_tuner(tuner, base=SERVER_DEFAULT), kv_capacity_tokens=20_000, seed=1)
    config = EngineConfig(latency=LATENCY, kv_capacity_tokens=20_000, seed=1)
    stream = simulate_stream(parts(table, [10, 11, 700]), config, make_tuner(tuner, base=SERVER_DEFAULT))
    assert_same(stream, at_once)


def test_static_batches_go_on_over_tables():
    table = requests(300, 5)
    limits = Limits(8, max_wait_ms=200.0)
    at_once = simulate(table, LATENCY, limits, mode="static")
    stream = simulate_stream(parts(table, [50, 200]), EngineConfig(latency=LATENCY, mode="static"), limits)
    assert_same(stream, at_once)


@settings(max_examples=20, deadline=None)
@given(
    seed=st.integers(0, 1000),
    cuts=st.lists(st.integers(1, 199), max_size=5),
    kv_tokens=st.sampled_from([1600, 6000, 60_000]),
    block_tokens=st.sampled_from([16, 64]),
    bare=st.sampled_from(["none", "first", "middle"]),
)
def test_what_is_cached_is_found_from_table_to_table(seed, cuts, kv_tokens, block_tokens, bare):
    rng = np.random.default_rng(seed)
    table = requests(200, seed, 20.0)
    hashes = draw_prefixes(table.prompt_tokens, LEVELS, block_tokens, rng)
    without = {"none": (0, 0), "first": (0, 80), "middle": (80, 140)}[bare]
    rows = [
        [] if without[0] <= i < without[1] else hashes.hashes[hashes.starts[i] : hashes.starts[i + 1]]
        for i in range(200)
    ]
    table = replace(table, prefixes=Prefixes.from_lists(rows, block_tokens))
    limits = Limits(16, token_budget=512, ttft_guard=1.0)
    config = EngineConfig(latency=LATENCY, kv_capacity_tokens=kv_tokens, prefix_cache=True, seed=seed)
    at_once = simulate(
        table, LATENCY, limits, kv_capacity_tokens=kv_tokens, prefix_cache=True, seed=seed, window_ms=500.0
    )
    tables = [one if len(one.prefixes.hashes) else replace(one, prefixes=None) for one in parts(table, cuts)]
    results = list(simulate_stream(tables, config, limits, window_ms=500.0))
    assert_same(results, at_once)
    assert sum(result.cached_tokens.sum() for result in results) == at_once.cached_tokens.sum() > 0


def test_tables_whose_hashes_are_of_different_lengths_are_refused():
    table = requests(20, 1)
    one, other = (replace(table, prefixes=Prefixes.from_lists([[1]] * 20, tokens)) for tokens in (16, 64))
    later = replace(other, arrival_ms=other.arrival_ms + 1e6)
    config = EngineConfig(latency=LATENCY, prefix_cache=True)
    with pytest.raises(ValueError, match="hash blocks of one size"):
        list(simulate_stream([one, later], config, Limits(8)))


def test_empty_tables_are_passed_over_and_none_gives_no_result():
    table = requests(50, 1)
    config, empty = EngineConfig(latency=LATENCY), table.select(slice(0, 0))
    results = list(simulate_stream([empty, table, empty], config, Limits(8)))
    assert len(results) == 1
    assert results[0].count("length") == 50
    assert list(simulate_stream([empty], config, Limits(8))) == []


def test_a_table_that_begins_before_the_last_one_ended_is_refused():
    table = requests(50, 1)
    with pytest.raises(ValueError, match="before the last arrival"):
        list(simulate_stream([table, table], EngineConfig(latency=LATENCY), Limits(8)))


def test_a_tuner_that_studies_details_is_refused():
    with pytest.raises(ValueError, match="details"):
        list(simulate_stream([requests(5, 1)], EngineConfig(latency=LATENCY), make_tuner("model-based")))


@settings(max_examples=15, deadline=None)
@given(
    seed=st.integers(0, 1000),
    cuts=st.lists(st.integers(1, 199), max_size=5),
    room=st.sampled_from([0, 5, 40]),
    discipline=st.sampled_from(["fcfs", "vision"]),
    text_first=st.booleans(),
)
def test_features_of_images_are_kept_from_table_to_table(seed, cuts, room, discipline, text_first):
    rng = np.random.default_rng(seed)
    table = requests(200, seed, 20.0)
    many = (200, 1 + seed % 2)
    side_px = np.where(rng.random(many) < 0.7, rng.choice([224, 336], many), 0)
    if text_first:
        side_px[:100] = 0
    images = Images.from_arrays(side_px, rng.integers(0, 30, many) + 1000)
    table = replace(table, prompt_tokens=table.prompt_tokens + images.tokens, images=images)
    tower = VisionTower(pass_ms=3.0, token_ms=0.02, feature_cache=room)
    limits = Limits(16, token_budget=512, ttft_guard=1.0)
    config = EngineConfig(latency=LATENCY, kv_capacity_tokens=6000, discipline=discipline, vision=tower, seed=seed)
    at_once = simulate(
        table, LATENCY, limits, kv_capacity_tokens=6000, discipline=discipline, vision=tower, seed=seed, window_ms=500.0
    )
    tables = parts(table, cuts)
    if text_first:
        tables = [one if one.images.shown.any() else replace(one, images=None) for one in tables]
    assert_same(simulate_stream(tables, config, limits, window_ms=500.0), at_once)
    assert room == 0 or text_first or at_once.image_hit_rate > 0.05


def talks(seed, n=120, gap_ms=60.0):
    """Requests and conversations of up to four turns, each named by its estimated output."""
    rng = np.random.default_rng(seed)
    turns = rng.integers(1, 5, n)
    session = np.repeat(np.where(turns > 1, np.arange(n), ALONE), turns)
    place = np.concatenate([np.arange(count) for count in turns])
    begun_ms = np.repeat(np.cumsum(rng.exponential(gap_ms, n)), turns)
    prompts = rng.integers(1, 200, len(session)) + 150 * place
    return RequestTable.from_arrays(
        begun_ms + 0.25 * place,
        prompts,
        rng.integers(1, 60, len(session)),
        estimated_output_tokens=np.arange(len(session)),
        slos=SLO(800.0, 60.0),
        turns=Turns(session, rng.exponential(900.0, len(session))),
        prefixes=Prefixes.from_lists([10_000 * c + np.arange(p // 16) for c, p in enumerate(prompts)], 16),
    )


@settings(max_examples=20, deadline=None)
@given(
    seed=st.integers(0, 1000),
    cuts=st.lists(st.integers(0, 7000), max_size=4),
    guard=st.sampled_from([None, 0.4]),
    prefix_cache=st.booleans(),
    alone=st.sampled_from(["none", "first", "last"]),
)
def test_conversations_go_on_from_table_to_table(seed, cuts, guard, prefix_cache, alone):
    table = talks(seed)
    of_first = table.arrival_ms[table.turns.first_of()]
    if alone != "none":  # a stream that begins, or ends, with requests that are nobody's turn
        middle = float(np.median(of_first))
        kept = table.turns.first() | ((of_first > middle) if alone == "first" else (of_first <= middle))
        table, of_first = table.select(kept), of_first[kept]
        cuts = [middle + 1e-6]
    limits = Limits(16, token_budget=512, ttft_guard=guard)
    options = {"kv_capacity_tokens": 6000, "noise": 0.1, "seed": seed, "prefix_cache": prefix_cache}
    at_once = simulate(table, LATENCY, limits, window_ms=500.0, **options)
    edges = [-1.0, *sorted(cuts), np.inf]
    tables = [table.select((of_first > begin) & (of_first <= end)) for begin, end in pairwise(edges)]
    if alone != "none":
        bare = 0 if alone == "first" else -1
        tables[bare] = replace(tables[bare], turns=None)
    results = list(simulate_stream(tables, EngineConfig(latency=LATENCY, **options), limits, window_ms=500.0))
    names = np.concatenate([result.requests.estimated_output_tokens for result in results])
    order, order_at_once = np.argsort(names), np.argsort(at_once.requests.estimated_output_tokens)
    assert len(names) == len(table)
    for name in (*COLUMNS, "cached_tokens"):
        column = np.concatenate([getattr(result, name) for result in results])
        np.testing.assert_array_equal(column[order], getattr(at_once, name)[order_at_once], err_msg=name)
    arrival = np.concatenate([result.requests.arrival_ms for result in results])[order]
    np.testing.assert_array_equal(arrival, at_once.requests.arrival_ms[order_at_once])
    assert [repr(w) for result in results for w in result.windows] == list(map(repr, at_once.windows))
