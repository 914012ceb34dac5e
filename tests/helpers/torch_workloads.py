"""Random work for the torch engine, and what the model itself would answer."""

import itertools
import math
import os
from functools import lru_cache

import numpy as np
import torch

from batchpilot import Limits, RequestTable
from batchpilot.core import DISCIPLINES
from batchpilot.engines.torch import ModelRunner, TorchEngine, TorchEngineConfig, load_model

BLOCK = 4
POOL = 40
LONGEST_OUTPUT = 16
torch.set_num_threads(1)  # Tiny models: more threads only wait for one another.

DEVICE = os.environ.get("BATCHPILOT_TORCH_DEVICE", "cpu")
"""Where the engine runs; `benchmarks/gpu_check.py` asks for others. The model's own answers are the processor's."""


def runner(name="tiny-llama", dtype="float32"):
    return _runner(name, dtype)


@lru_cache
def _runner(name, dtype):
    return ModelRunner(name, device=DEVICE, dtype=dtype, kv_capacity_tokens=1024, block_size=BLOCK, step_tokens=256)


def own_model(name="tiny-llama", dtype="float32"):
    """The same weights on the model's own attention."""
    return _own_model(name, dtype)


@lru_cache
def _own_model(name, dtype):
    return load_model(name, dtype=dtype, attention="sdpa")


def own_tokens(model, prompt, count):
    """What the model's own `generate` says after a prompt."""
    ids = torch.from_numpy(prompt)[None]
    model.generation_config.eos_token_id = None
    with torch.inference_mode():
        out = model.generate(
            ids,
            attention_mask=torch.ones_like(ids),
            max_new_tokens=count,
            do_sample=False,
            pad_token_id=0,
        )
    return out[0, len(prompt) :].numpy()


@lru_cache
def answered_prompts(name):
    """Prompts with the model's own greedy answers; a shorter answer is the beginning of a longer one."""
    rng = np.random.default_rng(7)
    prompts = [rng.integers(0, 256, rng.integers(1, 48)) for _ in range(POOL)]
    return [(prompt, own_tokens(own_model(name), prompt, LONGEST_OUTPUT)) for prompt in prompts]


def steady_clock(step_ms=1.0):
    """A clock by which every step takes the same time, so that arrivals meet the same steps in every run."""
    ticks = itertools.count()
    return lambda: next(ticks) * step_ms / 1000.0


def random_requests(rng, chosen, answers, concurrency=0):
    return RequestTable.from_arrays(
        np.cumsum(rng.exponential(4.0, len(chosen))),
        [len(answers[k][0]) for k in chosen],
        rng.integers(1, LONGEST_OUTPUT + 1, len(chosen)),
        priority=rng.integers(0, 3, len(chosen)),
        user=rng.integers(0, 3, len(chosen)),
        concurrency=concurrency,
    )


def random_limits(rng):
    budget = None if rng.random() < 0.3 else int(rng.integers(1, 64))
    return Limits(int(rng.integers(1, 9)), token_budget=budget, discipline=str(rng.choice(list(DISCIPLINES))))


def random_engine(seed, name="tiny-llama", mode=None, **options):
    """An engine on random requests with a KV cache that is seldom large enough, and their right answers."""
    rng = np.random.default_rng(seed)
    answers = answered_prompts(name)
    chosen = rng.integers(0, POOL, rng.integers(2, 9))
    requests = random_requests(rng, chosen, answers, concurrency=int(rng.choice([0, 0, 3])))
    needed = int((requests.prompt_tokens + requests.output_tokens).max())
    config = TorchEngineConfig(
        kv_capacity_tokens=int(needed + BLOCK + rng.integers(0, 80)),
        mode=mode or str(rng.choice(["continuous", "continuous", "continuous", "static"])),
        prefill=str(rng.choice(["chunked", "whole", "selective"])),
    )
    prompts = [answers[k][0] for k in chosen]
    options = {"clock": steady_clock()} | options
    engine = TorchEngine(config, requests, runner(name), prompts=prompts, **options)
    expected = [answers[k][1][:count] for k, count in zip(chosen, requests.output_tokens, strict=True)]
    return engine, expected, rng


def run_under_changing_limits(engine, rng):
    """Run to the end; whatever a tuner may ask for is in force for some steps. Returns preemptions and failures."""
    preemptions = failures = 0
    while not engine.finished:
        engine.set_limits(random_limits(rng))
        window, _ = engine.run_window(engine.now_ms + 10.0)
        preemptions += window.preemptions
        failures += window.failures
    return preemptions, failures


def assert_nothing_is_held(engine):
    clock = engine.state.clock[0]
    assert engine.tables.free == clock.free_blocks == clock.total_blocks
    assert len(engine.tables.owned()) == 0


def run_to_the_end(engine, limits):
    engine.set_limits(limits)
    assert engine.run_until(math.inf)
