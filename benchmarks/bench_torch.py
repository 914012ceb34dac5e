"""The torch engine against a padded `generate` of transformers and its own static batching, and its step times.

All on the same requests of mixed lengths in one process; medians and the best of a few repeats, taken in turn so that
other work on the machine falls on all alike.

    python benchmarks/bench_torch.py --threads 2
"""

from __future__ import annotations

import argparse
import math
import platform
import time

import numpy as np
import torch

from batchpilot import Limits, RequestTable
from batchpilot.engines.torch import ModelRunner, Telemetry, TorchEngine, TorchEngineConfig, load_model
from batchpilot.engines.torch.device import synchronise
from batchpilot.engines.torch.telemetry import source_of
from batchpilot.engines.torch.warm_up import synthetic_step

STEPS = ((1, 1, 256), (8, 1, 256), (32, 1, 256), (1, 64, 0), (1, 256, 0))


def mixed_requests(count: int, seed: int) -> RequestTable:
    """Log-normal prompts and outputs, as chats have them, all there at the start."""
    rng = np.random.default_rng(seed)
    prompts = np.clip(rng.lognormal(math.log(60), 0.9, count), 4, 512).astype(int)
    outputs = np.clip(rng.lognormal(math.log(40), 0.9, count), 2, 256).astype(int)
    return RequestTable.from_arrays(np.zeros(count), prompts, outputs)


def engine_seconds(runner: ModelRunner, requests: RequestTable, mode: str, batch_size: int, every: int = 0) -> float:
    """Wall time of a whole run, scheduling included."""
    telemetry = Telemetry(source_of(runner.device), every) if every else None
    engine = TorchEngine(TorchEngineConfig(mode=mode), requests, runner, telemetry=telemetry)
    engine.set_limits(Limits(batch_size, token_budget=None if mode == "static" else 512))
    started = time.perf_counter()
    engine.run_until(math.inf)
    seconds = time.perf_counter() - started
    if telemetry is not None:
        share, readings = telemetry.cost_s / seconds, len(telemetry.samples)
        each = f", {1e6 * telemetry.cost_s / readings:.0f} us each" if readings else ""
        print(f"telemetry every {every} steps: {readings} samples{each}, {100 * share:.3f} % of the run")
    return seconds


def generate_seconds(model: torch.nn.Module, requests: RequestTable, prompts: list, batch_size: int) -> float:
    """Wall time of padded batches in order of arrival, each generating as much as its longest output."""
    device = next(model.parameters()).device
    model.generation_config.eos_token_id = None
    started = time.perf_counter()
    with torch.inference_mode():
        for first in range(0, len(prompts), batch_size):
            batch = prompts[first : first + batch_size]
            longest = max(len(prompt) for prompt in batch)
            ids = torch.zeros(len(batch), longest, dtype=torch.long)
            mask = torch.zeros_like(ids)
            for row, prompt in enumerate(batch):
                ids[row, longest - len(prompt) :] = torch.from_numpy(prompt)
                mask[row, longest - len(prompt) :] = 1
            tokens = int(requests.output_tokens[first : first + batch_size].max())
            model.generate(
                ids.to(device),
                attention_mask=mask.to(device),
                max_new_tokens=tokens,
                do_sample=False,
                pad_token_id=0,
            )
    synchronise(device)
    return time.perf_counter() - started


def print_step_times(runner: ModelRunner, repeats: int) -> None:
    """Median and best time of single steps."""
    print("\n| requests | tokens each | context each | median ms | best ms |\n|---|---|---|---|---|")
    for requests, tokens, context in STEPS:
        step = synthetic_step(requests, tokens, context, runner.cache.block_size)
        times = []
        for _ in range(repeats):
            started = time.perf_counter()
            runner.logits(step)
            synchronise(runner.device)
            times.append(1000.0 * (time.perf_counter() - started))
        print(f"| {requests} | {tokens} | {context} | {np.median(times):.2f} | {min(times):.2f} |")


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--model", default="small-qwen3")
    parser.add_argument("--device", default="cpu")
    parser.add_argument("--dtype", default="float32")
    parser.add_argument("--threads", type=int, default=torch.get_num_threads())
    parser.add_argument("--requests", type=int, default=64)
    parser.add_argument("--batch-size", type=int, default=16)
    parser.add_argument("--repeats", type=int, default=3)
    arguments = parser.parse_args()
    torch.set_num_threads(arguments.threads)

    requests = mixed_requests(arguments.requests, seed=0)
    runner = ModelRunner(
        arguments.model, device=arguments.device, dtype=arguments.dtype, kv_capacity_tokens=32_768, step_tokens=512
    )
    own = load_model(arguments.model, device=arguments.device, dtype=arguments.dtype, attention="sdpa")
    source = TorchEngine(TorchEngineConfig(), requests, runner)
    prompts = [source.prompt(r) for r in range(len(requests))]
    print(
        f"{arguments.model} {arguments.dtype} on {arguments.device}, {arguments.threads} threads, "
        f"{platform.processor() or platform.machine()}, torch {torch.__version__}"
    )
    print(
        f"{len(requests)} requests, {requests.prompt_tokens.sum()} prompt tokens, "
        f"{requests.output_tokens.sum()} output tokens, batch size {arguments.batch_size}"
    )
    engine_seconds(runner, mixed_requests(4, seed=1), "continuous", 4)
    engine_seconds(runner, mixed_requests(4, seed=1), "static", 4)
    ways = {
        "engine, continuous": lambda: engine_seconds(runner, requests, "continuous", arguments.batch_size),
        "engine, static": lambda: engine_seconds(runner, requests, "static", arguments.batch_size),
        "transformers, padded generate": lambda: generate_seconds(own, requests, prompts, arguments.batch_size),
    }
    seconds = {name: [] for name in ways}
    for _ in range(arguments.repeats):
        for name, way in ways.items():
            seconds[name].append(way())
    ours = seconds["engine, continuous"]
    print("\n| | best s | output tokens/s | ratio of medians | least and most |\n|---|---|---|---|---|")
    for name, taken in seconds.items():
        ratios = np.array(taken) / np.array(ours)
        print(
            f"| {name} | {min(taken):.2f} | {requests.output_tokens.sum() / min(taken):.0f} "
            f"| {np.median(taken) / np.median(ours):.2f} | {ratios.min():.2f} to {ratios.max():.2f} |"
        )
    print_step_times(runner, 10 * arguments.repeats)
    print()
    engine_seconds(runner, requests, "continuous", arguments.batch_size, every=20)


if __name__ == "__main__":
    main()
