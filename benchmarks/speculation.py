"""Where do drafts pay? Break-even by batch size on catalogued devices (simulated), and real text on the torch engine.

    python benchmarks/speculation.py devices
    python benchmarks/speculation.py text --model smollm2-135m

`devices` lets B clients decode at once, k drafted tokens a step, and prints tokens/s against no drafts. `text` gives
the torch engine this repository's documents to go on with, drafts by prompt lookup, and prints the accepted length and
the speed. With a preset of random weights what is answered is no language, and only the time of a step means anything.
"""

from __future__ import annotations

import argparse
import math
import time
from pathlib import Path

import numpy as np

from batchpilot import Limits, RequestTable, simulate
from batchpilot.configs.catalogue import device, model
from batchpilot.core.speculation import Speculation
from batchpilot.engines.memory import memory_model
from batchpilot.latency.model.registry import find_latency

PAIRS = (("A100-80GB", "Llama-3.1-8B"), ("H100-80GB", "Llama-3.1-8B"), ("L4", "Qwen3-1.7B"))
BATCHES = (1, 8, 32, 64, 128, 256)
DRAFTED = (1, 2, 4, 8)
PROMPT, OUTPUT = 512, 256
DRAFTERS = {
    "draft model (0.65, each step 5 % of the model's)": Speculation(),
    "lookup (0.3)": Speculation(0.3, 1.0, 0.0),
}


def devices(args: argparse.Namespace) -> None:
    """Tokens/s with k drafted tokens over tokens/s without, by device and batch size."""
    for device_name, model_name in PAIRS:
        chip, served = device(device_name), model(model_name)
        latency = find_latency(chip, served).parameters
        capacity = memory_model(chip, served).kv_capacity_tokens
        for told, speculation in DRAFTERS.items():
            print(f"\n{device_name}, {model_name}, {told}; tokens/s against none drafted\n")
            print("| B | tokens/s, k = 0 | " + " | ".join(f"k = {k}" for k in DRAFTED) + " | best |")
            print("|---" * (len(DRAFTED) + 3) + "|")
            for batch in BATCHES:
                if batch * (PROMPT + OUTPUT) > capacity:
                    continue
                table = RequestTable.from_arrays(np.zeros(4 * batch), PROMPT, OUTPUT, concurrency=batch)
                rates = []
                for k in (0, *DRAFTED):
                    limits = Limits(batch, token_budget=8192, speculative_tokens=k)
                    result = simulate(
                        table, latency, limits, kv_capacity_tokens=capacity, speculation=speculation, estimate=latency
                    )
                    rates.append(result.total_generated_tokens / np.nanmax(result.requests.arrival_ms + result.e2e_ms))
                gains = [rate / rates[0] for rate in rates[1:]]
                best = (0, *DRAFTED)[int(np.argmax([1.0, *gains]))]
                print(
                    f"| {batch} | {1000 * rates[0]:,.0f} | "
                    + " | ".join(f"{g:.2f}" for g in gains)
                    + f" | k = {best} |"
                )


def text(args: argparse.Namespace) -> None:
    """Accepted length and speed of prompt lookup on documents."""
    from batchpilot.engines.torch import ModelRunner, TorchEngine, TorchEngineConfig

    runner = ModelRunner(args.model, kv_capacity_tokens=args.kv_tokens, draft_model=args.draft_model)
    prompts = documents(args, runner.shape.vocabulary)
    table = RequestTable.from_arrays(np.zeros(len(prompts)), [len(p) for p in prompts], args.output)
    print(f"{args.model}, {len(prompts)} prompts of {args.prompt} tokens, {args.output} said to each, greedy\n")
    print("| B | k | drafts | accepted length | steps | tokens/s | against k = 0 |\n|---|---|---|---|---|---|---|")
    for batch in args.batches:
        plain = said = None
        for k in (0, *args.drafted):
            engine = TorchEngine(TorchEngineConfig(), table, runner, prompts=prompts)
            engine.set_limits(Limits(batch, token_budget=1024, speculative_tokens=k))
            began = time.perf_counter()
            window, _ = engine.run_window(math.inf)
            rate = window.generated_tokens / (time.perf_counter() - began)
            answers = [engine.generated(r).tolist() for r in range(len(prompts))]
            plain, said = plain or rate, said or answers
            assert answers == said, "drafts changed a greedy answer"
            length = f"{window.accepted_length:.2f}" if window.drafts else "-"
            print(f"| {batch} | {k} | {window.drafts} | {length} | {window.steps} | {rate:.1f} | {rate / plain:.2f} |")


def documents(args: argparse.Namespace, vocabulary: int) -> list[np.ndarray]:
    """Beginnings of this repository's pages in token ids; bytes where the model has no tokenizer of its own."""
    from batchpilot.engines.packaged import PACKAGED

    pages = sorted((Path(__file__).parents[1] / "docs").glob("*.md"))[: args.requests]
    if args.model in PACKAGED:
        from transformers import AutoTokenizer

        file = PACKAGED[args.model].path()
        tokenizer = AutoTokenizer.from_pretrained(file.parent, gguf_file=file.name, local_files_only=True)
        ids = [tokenizer(page.read_text())["input_ids"] for page in pages]
    else:
        ids = [list(page.read_bytes()) for page in pages]
    return [np.array(one[: args.prompt]) % vocabulary for one in ids]


def main() -> None:
    """Run one of the two."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    commands = parser.add_subparsers(required=True)
    commands.add_parser("devices").set_defaults(run=devices)
    told = commands.add_parser("text")
    told.set_defaults(run=text)
    told.add_argument("--model", default="small-qwen3")
    told.add_argument("--draft-model", default=None)
    told.add_argument("--kv-tokens", type=int, default=16_384)
    told.add_argument("--requests", type=int, default=8)
    told.add_argument("--prompt", type=int, default=256)
    told.add_argument("--output", type=int, default=96)
    told.add_argument("--batches", type=int, nargs="+", default=[1, 4])
    told.add_argument("--drafted", type=int, nargs="+", default=[2, 4])
    args = parser.parse_args()
    args.run(args)


if __name__ == "__main__":
    main()
