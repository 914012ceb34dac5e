"""What does a simulated request cost here and in the peer simulator Vidur? Both in turn, on lengths of the same trace.

    python benchmarks/against_vidur.py --vidur CHECKOUT --python CHECKOUT/venv/bin/python --traces ../shared/traces

Vidur is in no package registry: clone it with its data and install its requirements first. Its own example is run
(Llama-3-8B on one A100, Sarathi with chunks of 512, batch 512, 6.45 requests a second, lengths of the conversation
trace), as quiet as its options allow; what its simulator's `run` takes is counted, over the requests: its start and the
training of its predictors are not. Ours is timed the same way, requests made before. Both kinds of its predictors are
looked up in tables as it runs, so `--predictor linear_regression`, which trains in seconds where its random forests
take minutes each, costs the same a request. A checkout without the profile of attention (its largest files) gets a
stand-in with `--stand-in`: times of a bandwidth and an arithmetic roofline, which change what is predicted and not what
predicting costs; say so of the figure.
"""

from __future__ import annotations

import argparse
import itertools
import os
import statistics
import subprocess
import time
from pathlib import Path

import numpy as np

from batchpilot import Limits, RequestTable, SaturationParameters, simulate
from batchpilot.workloads import read_trace

MODEL = "meta-llama/Meta-Llama-3-8B"
LAYERS_WIDTH = {"n_embd": 4096, "n_q_head": 32, "n_kv_head": 8}
QPS, CHUNK, BATCH = 6.45, 512, 512
ENGINE = SaturationParameters(p_max=20.0, k_b=10.0, k_s=0.008, tau_0=8.0, tau_c=1e-5)
"""An A100 with an 8B model, roughly: a step of 8 ms, a prompt token 0.05 ms."""
QUIET = ("write_metrics", "write_json_trace", "enable_chrome_trace", "store_plots", "store_operation_metrics")
TOLD = "seconds of the run:"
TIMED = f"""
import time
from vidur.config import SimulationConfig
from vidur.simulator import Simulator
from vidur.utils.random import set_seeds
config = SimulationConfig.create_from_cli_args()
set_seeds(config.seed)
simulator = Simulator(config)
started = time.perf_counter()
simulator.run()
print("{TOLD}", time.perf_counter() - started)
"""
BYTES_PER_MS, FLOPS_PER_MS = 1.5e9, 2.0e11


def main() -> None:
    """Parse the command line and measure."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--vidur", type=Path, required=True, help="its checkout")
    parser.add_argument("--python", type=Path, required=True, help="an interpreter with its requirements")
    parser.add_argument("--traces", type=Path, default=Path("../shared/traces"), help="folder of the published traces")
    parser.add_argument("--requests", type=int, default=1024, help="of a run of the peer")
    parser.add_argument("--pairs", type=int, default=5)
    parser.add_argument("--predictor", default="random_forrest", choices=("random_forrest", "linear_regression"))
    parser.add_argument("--stand-in", action="store_true", help="make the profile of attention if it is missing")
    asked = parser.parse_args()
    if asked.stand_in:
        write_stand_in(asked.vidur / "data/profiling/compute/a100" / MODEL / "attention.csv")
    trace = read_trace(asked.traces / "AzureLLMInferenceTrace_conv.csv", "azure2023")
    theirs_s(asked)  # trains its predictors, which it keeps
    ours_s(trace)  # loads the kernels
    ratios = []
    for pair in range(asked.pairs):
        peer, ours = theirs_s(asked) / asked.requests, ours_s(trace) / len(trace)
        ratios.append(peer / ours)
        print(f"pair {pair}: Vidur {1e6 * peer:.0f} us, batchpilot {1e6 * ours:.2f} us a request", flush=True)
    print(f"Vidur over batchpilot: {statistics.median(ratios):.0f} (median of {asked.pairs} pairs)")


def theirs_s(asked: argparse.Namespace) -> float:
    """Seconds that the peer's simulator runs."""
    predictor = f"{asked.predictor}_execution_time_predictor_config_prediction"
    settings = {
        "replica_config_device": "a100",
        "replica_config_model_name": MODEL,
        "cluster_config_num_replicas": 1,
        "request_generator_config_type": "synthetic",
        "synthetic_request_generator_config_num_requests": asked.requests,
        "length_generator_config_type": "trace",
        "trace_request_length_generator_config_max_tokens": 16384,
        "trace_request_length_generator_config_trace_file": "./data/processed_traces/splitwise_conv.csv",
        "interval_generator_config_type": "poisson",
        "poisson_request_interval_generator_config_qps": QPS,
        "replica_scheduler_config_type": "sarathi",
        "sarathi_scheduler_config_batch_size_cap": BATCH,
        "sarathi_scheduler_config_chunk_size": CHUNK,
        "execution_time_predictor_config_type": asked.predictor,
        f"{predictor}_max_prefill_chunk_size": 16384,
        f"{predictor}_max_batch_size": BATCH,
        f"{predictor}_max_tokens_per_request": 16384,
    }
    options = [text for name, value in settings.items() for text in (f"--{name}", str(value))]
    options += [f"--no-metrics_config_{name}" for name in QUIET]
    command = [str(asked.python), "-c", TIMED, *options]
    done = subprocess.run(command, cwd=asked.vidur, env=os.environ | {"WANDB_MODE": "disabled"}, capture_output=True)
    if done.returncode:
        raise SystemExit(f"Vidur ended with {done.returncode}:\n{done.stderr.decode()[-2000:]}")
    return float(done.stdout.decode().split(TOLD)[1].split()[0])


def ours_s(trace: RequestTable) -> float:
    """Seconds of a simulation here, the best of five."""
    gaps_ms = np.random.default_rng(0).exponential(1000.0 / QPS, len(trace))
    table = RequestTable.from_arrays(np.cumsum(gaps_ms), trace.prompt_tokens, trace.output_tokens)
    times = []
    for _ in range(5):
        started = time.perf_counter()
        simulate(table, ENGINE, Limits(BATCH, CHUNK), window_ms=1e12)
        times.append(time.perf_counter() - started)
    return min(times)


def write_stand_in(path: Path) -> None:
    """A profile of attention, one layer's, by rooflines; nothing is done where there is one."""
    if path.exists():
        return
    fixed = {**LAYERS_WIDTH, "block_size": 16, "num_tensor_parallel_workers": 1}
    names = [*fixed, "prefill_chunk_size", "kv_cache_size", "batch_size"]
    names += [f"time_stats.{operation}.median" for operation in ("attn_prefill", "attn_decode", "attn_kv_cache_save")]
    per_token = 2 * 2 * 128 * fixed["n_kv_head"]
    rows = [",".join(names)]
    for chunk, cached in itertools.product((*range(32, 512, 32), *range(512, 4097, 256)), range(0, 12_289, 512)):
        work = 4 * 128 * fixed["n_q_head"] * chunk * (cached + chunk / 2) / FLOPS_PER_MS
        rows.append(row(fixed, chunk, cached, 1, work, 0.0, 1e-4 * chunk))
    for batch, cached in itertools.product((1, 2, 4, *range(8, 513, 8)), range(16, 16_385, 512)):
        rows.append(row(fixed, 0, cached, batch, 0.0, batch * cached * per_token / BYTES_PER_MS, 1e-4 * batch))
    path.write_text("\n".join(rows) + "\n")


def row(fixed: dict[str, int], chunk: int, cached: int, batch: int, *times: float) -> str:
    """A line of the profile."""
    return ",".join(map(str, [*fixed.values(), chunk, cached, batch, *times]))


if __name__ == "__main__":
    main()
