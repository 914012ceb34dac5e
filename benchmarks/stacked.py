"""One optimisation after the other on the same requests, in the shape of the documents' table of stacked ones.

    python benchmarks/stacked.py [--device A100-80GB] [--model Llama-3.1-8B] [--seeds 3]

Static batches of eight; continuous batching whose memory is reserved for the longest request; the same with paged
blocks; 4-bit weights; limits by guarded-adaptive. Each row at the highest constant rate of chat of which 95 % are
served within TTFT 2 s and TPOT 50 ms. Flash attention is no row: the measured operators have it, and nobody measured
without.
"""

from __future__ import annotations

import argparse
import math
from pathlib import Path
from typing import Any

import numpy as np
from common import steady, write_rows

from batchpilot.baselines import SERVER_DEFAULT, Setting
from batchpilot.configs.scenario import Scenario
from batchpilot.core import Limits
from batchpilot.engines import SimulatedEngine, run_engine
from batchpilot.envs.scenarios import PreparedRun, prepare
from batchpilot.runners.leaderboard.device_use import device_use
from batchpilot.runners.leaderboard.evaluation import tightest_slo
from batchpilot.tuners import build_tuner

LONGEST = 8192
TUNED = "guarded-adaptive"
ATTAINMENT, HALVINGS = 0.95, 12
PUBLISHED = (
    ("base", 450, 42, 8, 65),
    ("paged attention", 380, 48, 12, 75),
    ("flash attention", 320, 56, 15, 82),
    ("AWQ", 280, 68, 20, 88),
    ("dynamic batching", 250, 72, 28, 92),
)
"""Of the deployment document: TTFT ms, tokens/s, requests/s, utilisation %; it names neither model nor device."""


def scenario(options: argparse.Namespace, mode: str, dtype: str, rate_per_s: float) -> Scenario:
    """Chat at a rate."""
    workload = steady("azure-conv", 1.0, 300.0)
    workload["phases"][0]["arrivals"] = {"kind": "poisson", "rate_per_s": rate_per_s}
    return Scenario.model_validate(
        {
            "name": "stacked",
            "description": "Chat at a constant rate.",
            "family": "stationary",
            "device": options.device,
            "model": options.model,
            "dtype": dtype,
            "engine": {"mode": mode},
            "promise": {"ttft_ms": 2000.0, "tpot_ms": 50.0},
            "workload": workload,
        }
    )


def figures(run: PreparedRun, limits: Limits | None) -> dict[str, float]:
    """What came of one run: TTFT, tokens and requests a second within SLO, the device's bandwidth and time in use."""
    setting = Setting(base=SERVER_DEFAULT, slo=tightest_slo(run), latency=run.engine.believed_latency())
    strategy = limits or build_tuner(TUNED, setting)
    engine = SimulatedEngine(run.engine, run.requests, record_steps=limits is None)
    result = run_engine(engine, strategy, window_ms=run.window_ms, horizon_ms=run.horizon_ms)
    told = device_use(run, result)
    seconds = result.elapsed_ms / 1000.0
    return {
        "attainment": result.slo_attainment,
        "ttft_p50_ms": result.percentile_ms("ttft_ms", 50),
        "ttft_p95_ms": result.percentile_ms("ttft_ms", 95),
        "tokens_per_s": result.goodput_tokens_per_s,
        "requests_per_s": float(result.slo_met.sum()) / seconds,
        "bandwidth": told["bandwidth_utilisation"],
        "busy": result.utilisation,
        "usd_per_million": told["usd_per_million"],
    }


def held(options: argparse.Namespace, mode: str, dtype: str, limits: Limits | None) -> dict[str, float]:
    """The figures at the highest rate that keeps the promise, found by halving on a logarithmic scale."""
    low, high = math.log(0.01), math.log(100.0)
    found: dict[str, float] = {}
    for _ in range(HALVINGS):
        rate = math.exp((low + high) / 2)
        runs = [figures(prepare(scenario(options, mode, dtype, rate), seed), limits) for seed in range(options.seeds)]
        mean = {column: float(np.mean([run[column] for run in runs])) for column in runs[0]}
        if mean["attainment"] >= ATTAINMENT:
            low, found = math.log(rate), mean
        else:
            high = math.log(rate)
    return found


def main() -> None:
    """Play and print."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--device", default="A100-80GB")
    parser.add_argument("--model", default="Llama-3.1-8B")
    parser.add_argument("--seeds", type=int, default=3)
    parser.add_argument("--out", type=Path, help="Write the figures as JSON here.")
    options = parser.parse_args()
    first = prepare(scenario(options, "continuous", "fp16", 1.0), 0)
    places = max(1, first.engine.capacity_tokens // LONGEST)
    stack: tuple[tuple[str, str, str, Limits | None], ...] = (
        ("static batches of 8", "static", "fp16", Limits(8, max_wait_ms=100.0)),
        (f"+ continuous, memory reserved ({places} places)", "continuous", "fp16", Limits(places, 2048)),
        ("+ paged blocks (256)", "continuous", "fp16", SERVER_DEFAULT),
        ("+ 4-bit weights", "continuous", "int4", SERVER_DEFAULT),
        (f"+ {TUNED}", "continuous", "int4", None),
    )
    print(f"{options.model} on {options.device}, the highest rate of which 95 % are in time, {options.seeds} seeds")
    print("| | TTFT p50, p95 ms | tokens/s | requests/s | bandwidth | time in steps | $ a million |")
    print("|---|---|---|---|---|---|---|")
    told: list[dict[str, Any]] = []
    for name, mode, dtype, limits in stack:
        mean = held(options, mode, dtype, limits)
        told.append({"row": name, **mean})
        if not mean:
            print(f"| {name} | none | | | | | |", flush=True)
            continue
        print(
            f"| {name} | {mean['ttft_p50_ms']:,.0f}, {mean['ttft_p95_ms']:,.0f} | {mean['tokens_per_s']:,.0f} "
            f"| {mean['requests_per_s']:.2g} | {mean['bandwidth']:.0%} | {mean['busy']:.0%} "
            f"| {mean['usd_per_million']:.2f} |",
            flush=True,
        )
    print("\nThe documents' table: TTFT ms, tokens/s, requests/s, utilisation")
    for name, *row in PUBLISHED:
        print(f"| {name} | {row[0]} | {row[1]} | {row[2]} | {row[3]} % |")
    write_rows(options, told)


if __name__ == "__main__":
    main()
