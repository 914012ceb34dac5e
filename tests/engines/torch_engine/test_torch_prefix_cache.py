"""The torch engine shares KV blocks of equal prefixes, and says the same tokens as without."""

from functools import lru_cache

import numpy as np
import pytest

pytest.importorskip("torch")
pytest.importorskip("transformers")

from torch_workloads import (
    BLOCK,
    LONGEST_OUTPUT,
    own_model,
    own_tokens,
    random_limits,
    random_requests,
    run_to_the_end,
    run_under_changing_limits,
    runner,
    steady_clock,
)

from batchpilot import Limits, RequestTable
from batchpilot.engines.torch import LiveEngine, TorchEngine, TorchEngineConfig
from batchpilot.workloads.prefixes import Prefixes

WORKLOADS = 60


@lru_cache
def alike(name):
    """Prompts that go on from a few common beginnings, with the model's own greedy answers."""
    rng = np.random.default_rng(11)
    beginnings = [rng.integers(0, 256, length) for length in (40, 23, 12)]
    beginnings.append(np.concatenate([beginnings[0][:28], rng.integers(0, 256, 20)]))
    prompts = [np.concatenate([b, rng.integers(0, 256, n)]) for b in beginnings for n in (0, 1, 4, 9, 17)]
    return [(prompt, own_tokens(own_model(name), prompt, LONGEST_OUTPUT)) for prompt in prompts]


def engine_of(seed, name="tiny-llama", *, cache=True, **options):
    rng = np.random.default_rng(seed)
    answers = alike(name)
    chosen = rng.integers(0, len(answers), rng.integers(3, 14))
    requests = random_requests(rng, chosen, answers, concurrency=int(rng.choice([0, 0, 3])))
    needed = int((requests.prompt_tokens + requests.output_tokens).max())
    config = TorchEngineConfig(
        kv_capacity_tokens=int(needed + BLOCK + rng.integers(0, 120)),
        prefill=str(rng.choice(["chunked", "whole", "selective"])),
        prefix_cache=cache,
    )
    prompts = [answers[k][0] for k in chosen]
    engine = TorchEngine(config, requests, runner(name), prompts=prompts, clock=steady_clock(), **options)
    return engine, [answers[k][1][:n] for k, n in zip(chosen, requests.output_tokens, strict=True)], rng


@pytest.mark.parametrize("name", ["tiny-llama", "tiny-qwen3"])
def test_greedy_tokens_equal_the_models_own_with_shared_blocks(name):
    preemptions = found = 0
    for seed in range(WORKLOADS):
        engine, expected, rng = engine_of(seed, name)
        preemptions += run_under_changing_limits(engine, rng)[0]
        for r, tokens in enumerate(expected):
            np.testing.assert_array_equal(engine.generated(r), tokens, err_msg=f"seed {seed}, request {r}")
        found += int(engine.state.requests["cached"].sum())
        clock = engine.state.clock[0]
        assert engine.tables.free == clock.free_blocks == clock.total_blocks
        assert len(engine.tables.owned()) == 0
    assert preemptions > WORKLOADS // 4
    assert found > 20 * WORKLOADS


def test_tables_point_to_shared_blocks_and_nobody_writes_another_requests_own():
    shared = 0
    for seed in range(20):
        engine, _, rng = engine_of(seed)
        state = engine.state
        while not engine.finished:
            engine.set_limits(random_limits(rng))
            engine.run_until(engine.now_ms + 1.0)
            np.testing.assert_array_equal(engine.tables.held, state.requests.blocks)
            tables = {r: engine.tables.table(np.array([r]))[0] for r in np.flatnonzero(engine.tables.held)}
            counts = state.chains["shared"]
            own = [block for r, table in tables.items() for block in table[counts[r] :]]
            common = {block for r, table in tables.items() for block in table[: counts[r]]}
            assert len(set(own)) == len(own)
            assert common.isdisjoint(own)
            shared += sum(int(counts[r]) for r in tables) - len(common)
    assert shared > 100


def test_a_prompt_whose_beginning_was_computed_reads_it_and_computes_the_rest():
    prompt, answer = alike("tiny-llama")[4]
    requests = RequestTable.from_arrays([0.0, 500.0], len(prompt), 4)
    config = TorchEngineConfig(prefix_cache=True)
    engine = TorchEngine(config, requests, runner(), prompts=[prompt, prompt], record_steps=True, clock=steady_clock())
    run_to_the_end(engine, Limits(4))
    cached = (len(prompt) - 1) // BLOCK * BLOCK
    assert engine.state.requests["cached"].tolist() == [0, cached]
    assert engine.step_log()[4, 2:4].tolist() == [len(prompt) - cached, cached]
    np.testing.assert_array_equal(engine.generated(1), answer[:4])


def test_prompts_are_drawn_alike_where_the_requests_say_so():
    rows = [[1, 2, 3], [1, 2, 4], [7]]
    requests = RequestTable.from_arrays(100.0 * np.arange(3), [30, 28, 20], 3, prefixes=Prefixes.from_lists(rows, 8))
    engine = TorchEngine(TorchEngineConfig(prefix_cache=True), requests, runner(), clock=steady_clock())
    np.testing.assert_array_equal(engine.prompt(0)[:16], engine.prompt(1)[:16])
    assert (engine.prompt(0)[16:24] != engine.prompt(1)[16:24]).any()
    run_to_the_end(engine, Limits(4))
    assert engine.state.requests["cached"].tolist() == [0, 16, 0]


def test_a_live_engine_shares_for_as_long_as_it_runs():
    answers = alike("tiny-llama")
    rng = np.random.default_rng(5)
    config = TorchEngineConfig(kv_capacity_tokens=240, prefix_cache=True)
    engine = LiveEngine(config, runner(), room=6, clock=steady_clock())
    engine.set_limits(Limits(4, token_budget=24))
    said, asked, hits, admitted = {}, {}, 0, 0
    for turn in range(400):
        if turn < 300 and engine.in_flight < 5 and rng.random() < 0.5:
            k = int(rng.integers(0, len(answers)))
            asked[engine.submit(answers[k][0], 6)] = k
        for event in engine.step().events:
            said.setdefault(event.request, []).append(event.token)
        if turn % 20 == 0:
            window = engine.close_window()
            hits, admitted = hits + window.cached_prompt_tokens, admitted + window.admitted_prompt_tokens
    assert len(asked) > 30
    for request, k in asked.items():
        np.testing.assert_array_equal(said[request], answers[k][1][:6])
    assert hits > 0.3 * admitted
    latest = engine.submit(answers[0][0], 2)
    assert engine.cached_tokens(latest) == engine.state.requests["cached"].max() > 0
    while engine.in_flight:
        engine.step()
    assert engine.cached_tokens(latest) == 0
    clock = engine.state.clock[0]
    assert engine.tables.free == clock.free_blocks == clock.total_blocks


def test_numbers_of_contents_are_given_anew_when_nobody_wants_them():
    config = TorchEngineConfig(kv_capacity_tokens=64, max_model_len=64, prefix_cache=True)
    engine = LiveEngine(config, runner(), room=2, clock=steady_clock())
    engine.set_limits(Limits(2))
    rng = np.random.default_rng(0)
    room = len(engine.state.contents)
    for _ in range(3 * room // 10):
        engine.submit(rng.integers(0, 256, 48), 2)
        while engine.in_flight:
            engine.step()
    assert engine.state.clock[0].n_idle <= engine.state.clock[0].total_blocks
