"""Whatever the scheduler does, a request's greedy tokens are those of the model's own `generate`."""

import numpy as np
import pytest

pytest.importorskip("torch")
pytest.importorskip("transformers")

import torch
from torch_workloads import (
    answered_prompts,
    assert_nothing_is_held,
    own_model,
    own_tokens,
    random_engine,
    run_to_the_end,
    run_under_changing_limits,
    runner,
    steady_clock,
)
from transformers import AutoConfig, AutoModelForCausalLM

from batchpilot import Limits, RequestTable
from batchpilot.engines.torch import ModelRunner, TorchEngine, TorchEngineConfig
from batchpilot.engines.torch.packing import StepTokens

WORKLOADS = 120
"""Of each architecture."""


def assert_tokens(engine, expected):
    for r, tokens in enumerate(expected):
        np.testing.assert_array_equal(engine.generated(r), tokens, err_msg=f"request {r}")


@pytest.mark.parametrize("name", ["tiny-llama", "tiny-qwen3"])
def test_greedy_tokens_of_random_workloads_equal_the_models_own(name):
    preemptions = 0
    for seed in range(WORKLOADS):
        engine, expected, rng = random_engine(seed, name)
        preemptions += run_under_changing_limits(engine, rng)[0]
        assert_tokens(engine, expected)
        assert_nothing_is_held(engine)
    assert preemptions > WORKLOADS // 4


@pytest.mark.parametrize("seed", range(10))
def test_padded_batches_say_the_same(seed):
    engine, expected, _ = random_engine(seed, mode="static")
    run_to_the_end(engine, Limits(4, token_budget=48, max_wait_ms=5.0))
    assert_tokens(engine, expected)


def test_answers_differ_with_the_context():
    # Without this the equality above would be weak: a model that ignores its context has no attention to get wrong.
    answers = answered_prompts("tiny-llama")
    prompt, expected = max(answers, key=lambda answer: len(answer[0]))
    changed = prompt.copy()
    changed[0] = (changed[0] + 1) % 256
    assert not np.array_equal(own_tokens(own_model(), changed, len(expected)), expected)


def small(model_type, attention="sdpa", **sizes):
    torch.manual_seed(3)
    config = AutoConfig.for_model(
        model_type,
        vocab_size=128,
        hidden_size=32,
        intermediate_size=64,
        num_hidden_layers=2,
        num_attention_heads=4,
        num_key_value_heads=4,
        head_dim=8,
        initializer_range=0.3,
        pad_token_id=0,
        eos_token_id=None,
        **sizes,
    )
    return AutoModelForCausalLM.from_config(config, attn_implementation=attention).eval()


def test_a_sliding_window_is_kept():
    model = small("mistral", sliding_window=6)
    rng = np.random.default_rng(0)
    prompts = [rng.integers(0, 128, length) for length in (3, 17, 30)]
    expected = [own_tokens(model, prompt, 10) for prompt in prompts]
    requests = RequestTable.from_arrays(np.zeros(3), [3, 17, 30], 10)
    engine = TorchEngine(
        TorchEngineConfig(), requests, ModelRunner(model, kv_capacity_tokens=256, step_tokens=64), prompts=prompts
    )
    run_to_the_end(engine, Limits(3, token_budget=7))
    assert_tokens(engine, expected)


def test_an_attention_that_does_more_is_refused():
    with pytest.raises(NotImplementedError, match="softcap"):
        ModelRunner(small("gemma2", "eager"), kv_capacity_tokens=256, step_tokens=64)


@pytest.mark.parametrize("name", ["tiny-llama", "tiny-qwen3"])
def test_logits_in_bfloat16_are_near_the_models_own(name):
    prompt = np.random.default_rng(1).integers(0, 256, 45)
    with torch.inference_mode():
        own = own_model(name, "bfloat16")(torch.from_numpy(prompt)[None], use_cache=False).logits[0].float()
    ours = []
    for start, stop in ((0, 16), (16, 19), (19, 44), (44, 45)):
        step = StepTokens(
            ids=prompt[start:stop],
            tables=np.array([[5, 2, 9, 4, 0, 1, 3, 8, 7, 6, 11, 10]]),
            tokens=np.array([stop - start]),
            computed=np.array([start]),
            padding=np.array([0]),
            wanted=np.array([True]),
        )
        ours.append(runner(name, "bfloat16").logits(step)[0].float())
    own = own[[15, 18, 43, 44]]
    spread = own.std()
    assert (torch.stack(ours) - own).abs().max() < 0.1 * spread


def test_engine_runs_in_bfloat16():
    requests = RequestTable.from_arrays(np.zeros(4), [5, 9, 30, 2], 6)
    engine = TorchEngine(TorchEngineConfig(), requests, runner(dtype="bfloat16"), clock=steady_clock())
    run_to_the_end(engine, Limits(4, token_budget=16))
    assert [len(engine.generated(r)) for r in range(4)] == [6, 6, 6, 6]
