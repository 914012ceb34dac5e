"""What 8 bits cost and give on the torch engine: errors of weights and KV cache, perplexity, milliseconds a step.

    python benchmarks/quantisation.py --threads 1
    python benchmarks/quantisation.py --model FOLDER --text FILE      # a real model: also its perplexity on a text

Types take turns, so that others on the machine disturb all alike; a time is the median over the rounds. Perplexity and
logits are those of teacher-forced text (random token ids without `--text`), 256 tokens at a time.
"""

from __future__ import annotations

import argparse
import statistics
import time
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import nn

from batchpilot.engines.torch import ModelRunner
from batchpilot.engines.torch.model import load_model
from batchpilot.engines.torch.quantisation import documented_error, expected_error, quantise, relative_error
from batchpilot.engines.torch.warm_up import synthetic_step

TYPES = (("float32", "auto"), ("float32", "int8"), ("float32", "fp8"), ("bfloat16", "auto"), ("int8", "auto"))
SHAPES = {"decode 1": (1, 1, 64), "decode 8": (8, 1, 64), "decode 32": (32, 1, 64), "prefill 256": (1, 256, 0)}
PIECE = 256


def weight_errors(model: str) -> None:
    """Print the error of each kind of layer, measured, expected and as documented, all relative to ||W||."""
    loaded = load_model(model)
    kinds: dict[str, list[tuple[float, ...]]] = {}
    for name, module in loaded.named_modules():
        if not isinstance(module, nn.Linear):
            continue
        weights, size = module.weight.data, float(module.weight.data.norm())
        row = [documented_error(weights) / size]
        for bits, symmetric in ((8, True), (8, False), (4, True)):
            quantised = quantise(weights, bits, symmetric=symmetric)
            row += [relative_error(weights, quantised), expected_error(quantised) / size]
        kinds.setdefault(name.rsplit(".", 1)[-1], []).append(tuple(row))
    print(f"{'||W - Wq|| / ||W||, %':<22}{'document':>9}{'int8':>8}{'expected':>9}{'uint8':>8}{'expected':>9}", end="")
    print(f"{'int4':>8}{'expected':>9}")
    for kind, rows in kinds.items():
        mean = [100 * statistics.fmean(column) for column in zip(*rows, strict=True)]
        print(f"{kind:<22}{mean[0]:>9.3f}" + "".join(f"{value:>{8 + k % 2}.3f}" for k, value in enumerate(mean[1:])))


def logits_of(runner: ModelRunner, ids: np.ndarray) -> torch.Tensor:
    """Logits behind the second half of some pieces, a token at a time on a cached first, shape (n, vocabulary)."""
    found = []
    for piece in ids:
        half = len(piece) // 2
        step = synthetic_step(1, half, 0, runner.cache.block_size)
        step.ids[:] = piece[:half]
        runner.logits(step)
        for place in range(half, len(piece) - 1):
            step = synthetic_step(1, 1, place, runner.cache.block_size)
            step.ids[:] = piece[place]
            found.append(runner.logits(step)[0].float())
    return torch.stack(found)


def main() -> None:
    """Measure and print."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--model", default="small-qwen3")
    parser.add_argument("--text", type=Path, help="what perplexity is of; needs the model's tokenizer")
    parser.add_argument("--pieces", type=int, default=2)
    parser.add_argument("--rounds", type=int, default=9)
    parser.add_argument("--threads", type=int, default=1)
    parser.add_argument("--kv-tokens", type=int, default=8192)
    options = parser.parse_args()
    torch.set_num_threads(options.threads)
    weight_errors(options.model)
    runners: dict[tuple[str, str], Any] = {
        kind: ModelRunner(options.model, dtype=kind[0], kv_dtype=kind[1], kv_capacity_tokens=options.kv_tokens)
        for kind in TYPES
    }
    vocabulary = runners[TYPES[0]].shape.vocabulary
    ids = np.random.default_rng(0).integers(0, vocabulary, options.pieces * PIECE)
    if options.text is not None:
        from transformers import AutoTokenizer

        ids = np.array(AutoTokenizer.from_pretrained(options.model)(options.text.read_text())["input_ids"])
        if len(ids) < PIECE * options.pieces:
            raise SystemExit(f"{options.text} has {len(ids)} tokens; {PIECE * options.pieces} are needed")
    pieces = ids[: options.pieces * PIECE].reshape(options.pieces, PIECE)
    said = torch.from_numpy(np.concatenate([piece[PIECE // 2 + 1 :] for piece in pieces]))
    exact = logits_of(runners[TYPES[0]], pieces)
    times: dict[tuple[tuple[str, str], str], list[float]] = {}
    for _ in range(options.rounds):
        for kind, runner in runners.items():
            for name, shape in SHAPES.items():
                step = synthetic_step(*shape, runner.cache.block_size)
                started = time.perf_counter()
                runner.logits(step)
                times.setdefault((kind, name), []).append(1e3 * (time.perf_counter() - started))
    head = (
        f"{'weights':<10}{'KV':<6}{'weights MB':>11}{'KV B/token':>11}{'logits %':>9}{'same top':>9}{'perplexity':>11}"
    )
    print("\n" + head + "".join(f"{name + ' ms':>16}" for name in SHAPES))
    for kind, runner in runners.items():
        logits = exact if kind == TYPES[0] else logits_of(runner, pieces)
        error = 100 * float((logits - exact).norm() / exact.norm())
        same = float((logits.argmax(-1) == exact.argmax(-1)).float().mean())
        perplexity = float(nn.functional.cross_entropy(logits, said).exp())
        memory = runner.memory
        row = f"{kind[0]:<10}{kind[1]:<6}{memory.fixed_mb:>11.1f}{memory.kv_mb_per_token * 2**20:>11.0f}"
        row += f"{error:>9.2f}{same:>9.3f}{perplexity:>11.1f}"
        print(row + "".join(f"{statistics.median(times[kind, name]):>16.2f}" for name in SHAPES))


if __name__ == "__main__":
    main()
