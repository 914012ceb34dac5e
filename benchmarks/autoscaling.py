"""What each scaler costs and keeps on a day of conversations and on a step, the clairvoyant one beside them.

    python benchmarks/autoscaling.py --trace AzureLLMInferenceTrace_conv.csv --seeds 3 --jobs 2 --out rows.jsonl

The day: 24 hours of the published conversation hour's requests in their order, over and over, their time stretched so
that the rate follows a day's rhythm (a sine between 0.3 and 1.7 of the mean, lowest at the ends), twice, so that the
second day can be known from the first. The step: the same requests at one rate, four times that for ten minutes, and
one again. A replica (Llama 3 8B on an A100) takes 60 s to start; routers look once a second; everybody is asked every
30 s.

Each way to play is a line of `--out` as soon as it ended; those that are there are not played again.
"""

from __future__ import annotations

import argparse
import csv
import json
import sys
import tempfile
import time
from collections.abc import Callable
from functools import cache
from pathlib import Path
from typing import Any

import numpy as np
from joblib import Parallel, delayed
from numpy.typing import NDArray

from batchpilot.configs.fleet_scenario import FleetScenario
from batchpilot.core.provenance import provenance
from batchpilot.envs.fleet.prepared import PreparedFleet, prepare_fleet
from batchpilot.envs.fleet.references import BEST_FIXED, CLAIRVOYANT
from batchpilot.fleet.scalers import Clairvoyant, Scaler
from batchpilot.runners.fleet.board import figures
from batchpilot.runners.fleet.strategies import PLANNED, Strategy
from batchpilot.runners.report.statistics import interquartile_mean

SCALERS = ("queue-and-use", "target-use", "response-time", "predictive", PLANNED, BEST_FIXED, CLAIRVOYANT)
TOLD = ("fixed 2", "fixed 3", "fixed 4", "clairvoyant 0.8", "clairvoyant 1")
"""References that are played, of those that there are."""

STANDING, MOST, LIMITS = 2, 6, "guarded-default"
COLUMNS = ("slo_attainment", "goodput_fraction", "usd", "usd_per_million_tokens", "replicas_mean", "ttft_p99_ms")

Shape = Callable[[NDArray[np.float64]], NDArray[np.float64]]


def day(hours: float) -> tuple[Shape, float]:
    """Rate over its mean by second, and seconds in all: two days."""
    return (lambda at_s: 1.0 - 0.7 * np.cos(2 * np.pi * at_s / (3600.0 * hours))), 7200.0 * hours


def step(hours: float) -> tuple[Shape, float]:
    """Ten minutes calm, ten at four times that, ten calm; 1 is the calm rate."""
    return (lambda at_s: np.where((at_s >= 600) & (at_s < 1200), 4.0, 1.0)), 1800.0


LOADS: dict[str, tuple[Callable[[float], tuple[Shape, float]], float]] = {"day": (day, 1.1), "step": (step, 0.4)}
"""Shape, and the rate where that is 1 over what the standing replicas hold by estimate."""


def stretched(
    trace: Path, shape: Shape, lasting_s: float, rate_per_s: float, seed: int
) -> list[tuple[float, str, str]]:
    """(seconds, prompt, output) of the requests from a place that the seed draws, at a rate that follows a shape."""
    with trace.open() as file:
        rows = list(csv.DictReader(file))
    arrival_s = np.array([row["TIMESTAMP"][:23] for row in rows], "datetime64[ms]").astype(np.float64) / 1000.0
    gaps = np.diff(arrival_s, append=arrival_s[-1] + (arrival_s[-1] - arrival_s[0]) / len(rows))
    grid = np.arange(0.0, lasting_s + 1.0)
    operational = np.concatenate([[0.0], np.cumsum(shape(grid[:-1] + 0.5))]) * rate_per_s * gaps.mean()
    begin = int(np.random.default_rng(seed).integers(len(rows)))
    n = int(operational[-1] / gaps.mean() * 1.2) + len(rows)
    order = (begin + np.arange(n)) % len(rows)
    passed = np.concatenate([[0.0], np.cumsum(gaps[order])[:-1]])
    kept = passed < operational[-1]
    at_s = np.interp(passed[kept], operational, grid)
    return [(t, rows[k]["ContextTokens"], rows[k]["GeneratedTokens"]) for t, k in zip(at_s, order[kept], strict=True)]


def scenario(name: str, file: Path, day_s: float | None) -> FleetScenario:
    """The fleet that serves a stretched trace."""
    options = {"arrival_column": "s", "prompt_column": "prompt", "output_column": "output", "time_unit": "s"}
    return FleetScenario.model_validate(
        {
            "name": f"conversation-{name}",
            "description": "The conversation hour, stretched.",
            "family": "trace",
            "replicas": {"A100-80GB": STANDING},
            "most": MOST,
            "day_s": day_s,
            "model": "Llama-3-8B",
            "workload": {"trace": {"file": str(file), "format": "csv", "options": options}},
        }
    )


def label(how: str, begun: PreparedFleet, scaler: Scaler | None) -> str:
    """What the table calls a way to play: references one by one, so that cost stands against attainment."""
    if how == BEST_FIXED:
        return f"fixed {begun.offer.specs[0].count}"
    return f"{how} {scaler.headroom:g}" if isinstance(scaler, Clairvoyant) else how


def play(options: argparse.Namespace, load: str, seed: int, done: set[str]) -> None:
    """Play every way that is not done on one seed of a load, and append what became of each."""
    shape_of, share = LOADS[load]
    how_played = {"day_hours": options.day_hours, "held_per_s": options.held_per_s, "limits": LIMITS}
    shape, lasting_s = shape_of(options.day_hours)
    with tempfile.TemporaryDirectory() as folder:
        file = Path(folder) / "trace.csv"
        rate = share * STANDING * options.held_per_s
        lines = [f"{t:.6f},{p},{o}" for t, p, o in stretched(options.trace, shape, lasting_s, rate, seed)]
        file.write_text("s,prompt,output\n" + "\n".join(lines) + "\n")

        @cache
        def prepared() -> PreparedFleet:
            day_s = 3600.0 * options.day_hours if load == "day" else None
            return prepare_fleet(scenario(load, file, day_s), seed, Strategy("", "least-tokens", "", LIMITS).make)

        for how in SCALERS:
            if how in done:
                continue
            strategy = Strategy(how, "least-tokens", how, LIMITS)
            for begun, scaler in strategy.ways(prepared()):
                name = label(how, begun, scaler)
                if name in done or (strategy.is_reference and name not in TOLD):
                    continue
                started = time.perf_counter()
                fleet = begun.fleet(strategy.router(), scaler)
                fleet.run_until(begun.offer.horizon_ms)
                row = {"load": load, "scaler": name, "seed": seed, "lasting_s": lasting_s}
                row |= figures(fleet.result(), begun)
                with options.out.open("a") as told:
                    told.write(json.dumps(row | provenance(seed, how_played), default=str) + "\n")
                print(f"{load} {seed}: {name} in {time.perf_counter() - started:.0f} s", file=sys.stderr, flush=True)


def table(rows: list[dict[str, Any]], load: str) -> None:
    """Print what is known of a load."""
    runs: dict[str, list[dict[str, Any]]] = {}
    for row in rows:
        if row["load"] == load:
            runs.setdefault(row["scaler"], []).append(row)
    if not runs:
        return
    first = next(iter(runs.values()))[0]
    print(f"\n{load}: {first['requests']:,} requests in {first['lasting_s'] / 3600:.1f} h, limits {LIMITS}")
    print(f"{'':<16}{'attained':>10}{'goodput':>9}{'$':>8}{'$/M good':>10}{'replicas':>10}{'TTFT p99':>10}{'seeds':>7}")
    for how, found in sorted(runs.items(), key=lambda pair: -pair[1][0]["slo_attainment"]):
        at, good, usd, per, mean, p99 = (
            float(interquartile_mean([one[column] for one in found])) for column in COLUMNS
        )
        print(f"{how:<16}{at:>10.3f}{good:>9.3f}{usd:>8.2f}{per:>10.3f}{mean:>10.2f}{p99:>10,.0f}{len(found):>7}")


def main() -> None:
    """Play and print."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--trace", type=Path, required=True)
    parser.add_argument("--load", choices=LOADS, action="append", help="These alone; both unless given.")
    parser.add_argument("--day-hours", type=float, default=24.0)
    parser.add_argument("--seeds", type=int, default=1)
    parser.add_argument("--jobs", type=int, default=1, help="Processes; one plays a seed of a load.")
    parser.add_argument("--held-per-s", type=float, default=8.8, help="Requests a second that a replica holds.")
    parser.add_argument("--out", type=Path, required=True, help="Rows, appended as JSON lines.")
    options = parser.parse_args()

    def rows() -> list[dict[str, Any]]:
        return [json.loads(line) for line in options.out.read_text().splitlines()] if options.out.exists() else []

    cells = [(load, seed) for load in options.load or LOADS for seed in range(options.seeds)]
    done = {cell: {row["scaler"] for row in rows() if (row["load"], row["seed"]) == cell} for cell in cells}
    Parallel(n_jobs=options.jobs)(delayed(play)(options, *cell, done[cell]) for cell in cells)
    for load in LOADS:
        table(rows(), load)


if __name__ == "__main__":
    main()
