"""What does HTTP take from the engine? Tokens a second past capacity over HTTP, and of the same engine in process.

    python benchmarks/http_cost.py --pairs 5

Requests of 8-512 prompt and 4-192 output tokens come all at once, to `batchpilot serve` in its processes and to its
engine, session and tuner in one process without HTTP (`serving.load.in_process`), in turns. The model runs on one
thread of torch, so the clients and HTTP need a second core. A ratio is of a pair; beside it stands what the server's
two processes spend on a token outside the thread that runs the model. Needs Linux and the extras `torch` and `serve`.
"""

from __future__ import annotations

import argparse
import asyncio
import os
import statistics
import subprocess
import sys
from pathlib import Path

import numpy as np
from overload_gateway import free_port, running
from overload_server import LENGTHS, NO_PROMISE, sent

from batchpilot.engines import SimulationResult
from batchpilot.workloads.table import RequestTable

KV_TOKENS, MAX_MODEL_LEN, ROOM = 131_072, 1024, 16_384


def burst(count: int, seed: int) -> RequestTable:
    """Requests that come all at once and may take as long as they do."""
    lengths = LENGTHS.sample(count, np.random.default_rng([seed, 1]))
    return RequestTable.from_arrays(np.zeros(count), *lengths, slos=NO_PROMISE)


def tokens_per_s(outcome: SimulationResult) -> float:
    """Of the whole burst, all of it served."""
    if np.isnan(outcome.e2e_ms).any():
        raise SystemExit(f"{np.isnan(outcome.e2e_ms).sum()} of {len(outcome.e2e_ms)} requests were not served")
    return 1000.0 * float(outcome.generated_tokens.sum()) / float(outcome.e2e_ms.max())


def in_process(model: str, tuner: str, requests: RequestTable) -> SimulationResult:
    """Without HTTP, here."""
    import torch

    from batchpilot.engines.torch import ModelRunner, TorchEngineConfig
    from batchpilot.serving.load.in_process import run_in_process
    from batchpilot.serving.load.prompts import Prompts
    from batchpilot.serving.server.building import build_service
    from batchpilot.serving.server.config import ServerConfig
    from batchpilot.serving.server.text import load_text

    torch.set_num_threads(1)
    runner = ModelRunner(model, kv_capacity_tokens=KV_TOKENS)
    config = TorchEngineConfig(max_model_len=MAX_MODEL_LEN)
    service = build_service(
        runner, load_text(model), ServerConfig(model, NO_PROMISE), tuner=tuner, engine_config=config, room=ROOM
    )
    prompts = Prompts(requests.prompt_tokens, 1.0, 0)
    return asyncio.run(run_in_process(requests, service, prompts, grace_s=300.0)).outcome


def in_a_process_of_its_own(options: argparse.Namespace) -> float:
    """Tokens a second of `in_process`."""
    command = [sys.executable, __file__, "--here", "--model", options.model, "--tuner", options.tuner]
    command += ["--requests", str(options.requests), "--seed", str(options.seed)]
    environment = os.environ | {"OMP_NUM_THREADS": "1"}
    return float(subprocess.run(command, env=environment, stdout=subprocess.PIPE, check=True, text=True).stdout)


def over_http(options: argparse.Namespace, requests: RequestTable) -> tuple[float, float, float]:
    """Tokens a second, and us of the HTTP process and of the engine's first thread (its event loop) a token."""
    port = free_port()
    command = [sys.executable, "-m", "batchpilot.runners.main", "serve", "--model", options.model]
    command += ["--tuner", options.tuner, "--threads", "1", "--kv-tokens", f"{KV_TOKENS}", "--port", f"{port}"]
    command += ["--max-model-len", f"{MAX_MODEL_LEN}", "--room", f"{ROOM}", "--ttft-ms", "1e7", "--tpot-ms", "1e7"]
    with running(command, port, "/ready") as process:
        children = Path(f"/proc/{process.pid}/task/{process.pid}/children").read_text().split()
        counted = [Path(f"/proc/{process.pid}/task/{process.pid}/stat"), *(Path(f"/proc/{c}/stat") for c in children)]
        before = [spent_us(path) for path in counted]
        outcome = sent(f"http://127.0.0.1:{port}", requests, 300.0).outcome
        loop_us, *front_us = (spent_us(path) - was for path, was in zip(counted, before, strict=True))
    tokens = float(outcome.generated_tokens.sum())
    return tokens_per_s(outcome), sum(front_us) / tokens, loop_us / tokens


def spent_us(path: Path) -> float:
    """Processor time of a process or thread."""
    fields = path.read_text().rpartition(")")[2].split()
    return 1e6 * (int(fields[11]) + int(fields[12])) / os.sysconf("SC_CLK_TCK")


def main() -> None:
    """Measure and print."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--model", default="small-qwen3")
    parser.add_argument("--tuner", default="static-64")
    parser.add_argument("--requests", type=int, default=300)
    parser.add_argument("--pairs", type=int, default=5)
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--here", action="store_true", help=argparse.SUPPRESS)
    options = parser.parse_args()
    requests = burst(options.requests, options.seed)
    if options.here:
        print(tokens_per_s(in_process(options.model, options.tuner, requests)))
        return
    print("| in process, tokens/s | over HTTP | ratio | HTTP, us a token | event loop of the engine's process |")
    print("|---|---|---|---|---|")
    ratios = []
    for _ in range(options.pairs):
        alone = in_a_process_of_its_own(options)
        served, front_us, loop_us = over_http(options, requests)
        ratios.append(served / alone)
        print(f"| {alone:.0f} | {served:.0f} | {ratios[-1]:.3f} | {front_us:.1f} | {loop_us:.1f} |", flush=True)
    print(f"\nratio: {statistics.median(ratios):.3f} ({min(ratios):.3f}-{max(ratios):.3f})")


if __name__ == "__main__":
    main()
