"""Requests with images: what the feature cache, encoding together and the discipline `vision` are worth.

    python benchmarks/images.py [--device H100-80GB] [--model Llama-3-8B] [--seeds 10]

Half of the requests show an image of 224, 336 or 448 pixels, one of 1,000 of each size by Zipf's law; texts are
Azure's conversations. Towers are estimated for the device (`tower_on`), so these are simulations of a stated guess. All
settings serve the same requests under limits of one size: 256 requests, 2,048 tokens a step. Intervals are of the mean
over seeds (Student's t, 95 %); what is more than the first row is of the same seeds.
"""

from __future__ import annotations

import argparse
import math
from collections.abc import Sequence
from dataclasses import replace

import numpy as np
from scipy import stats

from batchpilot import Limits
from batchpilot.configs.catalogue import device
from batchpilot.configs.scenario import Scenario
from batchpilot.engines import SimulatedEngine
from batchpilot.engines.simulated.result import SimulationResult
from batchpilot.engines.simulated.simulation import run_engine
from batchpilot.envs import prepare
from batchpilot.envs.scenarios import PreparedRun
from batchpilot.latency.model.vision_tower import VisionTower, tower_on

LIMITS = Limits(256, token_budget=2048)
PROMISES = {"realtime": 100.0, "interactive": 500.0, "batch": 2000.0}
"""TTFT of P0, P1 and P2 in the vision document."""


def scenario(load: float, options: argparse.Namespace) -> Scenario:
    """A minute of requests with and without images at a multiple of the engine's capacity.

    Args:
        load: the multiple; the encoding is not counted in it.
        options: device and model.
    """
    shared = {"duration_s": 60, "lengths": {"kind": "azure-conv"}}
    phases = [
        {
            **shared,
            "arrivals": {"kind": "gamma", "load": load, "cv": 1.5},
            "priority_mix": {"high": 0.2, "normal": 0.5, "low": 0.3},
        }
    ]
    return Scenario.model_validate(
        {
            "name": "images",
            "description": "Half of the requests show an image.",
            "family": "overload" if load > 1 else "stationary",
            "device": options.device,
            "model": options.model,
            "workload": {
                "phases": phases,
                "images": {"share": 0.5, "sizes": {224: 1, 336: 2, 448: 1}, "different": 1000, "zipf": 1.0},
            },
        }
    )


def promised(run: PreparedRun) -> PreparedRun:
    """The same run with the document's TTFT by priority, and 60 ms a token.

    Args:
        run: of any promise.
    """
    slos = [replace(run.requests.slos[0], ttft_ms=ttft, tpot_ms=60.0, name=name) for name, ttft in PROMISES.items()]
    return replace(run, requests=replace(run.requests, slos=tuple(slos), slo_class=run.requests.priority))


def served(run: PreparedRun, tower: VisionTower, limits: Limits, *, prefix_cache: bool = False) -> SimulationResult:
    """One run.

    Args:
        run: requests and engine.
        tower: what encodes.
        limits: in force throughout.
        prefix_cache: whether KV blocks of equal images are shared.
    """
    engine = SimulatedEngine(replace(run.engine, vision=tower, prefix_cache=prefix_cache), run.requests)
    return run_engine(engine, limits, window_ms=run.window_ms, horizon_ms=run.horizon_ms)


def interval(values: Sequence[float], digits: int = 1) -> str:
    """Mean and half the width of its 95 % interval.

    Args:
        values: one a seed.
        digits: after the point.
    """
    mean = float(np.mean(values))
    if len(values) < 2:
        return f"{mean:,.{digits}f}"
    half = float(stats.t.ppf(0.975, len(values) - 1) * np.std(values, ddof=1) / math.sqrt(len(values)))
    return f"{mean:,.{digits}f} +- {half:,.{digits}f}"


def caches(load: float, runs: Sequence[PreparedRun], options: argparse.Namespace) -> None:
    """Print what caches and passes are worth, a tower a table.

    Args:
        load: told.
        runs: by seed.
        options: the device, and which towers.
    """
    for name in options.towers.split(","):
        tower = tower_on(device(options.device), name)
        settings = {
            "each image alone, no cache": (replace(tower, together=1, feature_cache=0), False),
            "together, no cache": (replace(tower, feature_cache=0), False),
            "alone, feature cache": (replace(tower, together=1), False),
            "together, feature cache": (tower, False),
            "together, both caches": (tower, True),
        }
        one = tower.encode_ms(336)
        print(f"\n{name} on {options.device} at load {load:g}: {one:.1f} ms for one image of 336 px alone\n")
        print(
            "| encoding | goodput % | more than the first | TTFT p50 ms | TTFT p95 ms | hits % | encoding, % of time |"
        )
        print("|---|---|---|---|---|---|---|")
        first: list[float] = []
        for title, (chosen, prefix_cache) in settings.items():
            results = [served(run, chosen, LIMITS, prefix_cache=prefix_cache) for run in runs]
            goodput = [100 * result.goodput_fraction for result in results]
            first = first or goodput
            print(
                f"| {title} | {interval(goodput)} | {interval(np.subtract(goodput, first).tolist())} "
                f"| {interval([result.percentile_ms('ttft_ms', 50) for result in results], 0)} "
                f"| {interval([result.percentile_ms('ttft_ms', 95) for result in results], 0)} "
                f"| {np.mean([100 * result.image_hit_rate for result in results]):.0f} "
                f"| {np.mean([100 * result.encode_ms / result.elapsed_ms for result in results]):.1f} |",
                flush=True,
            )


def disciplines(load: float, runs: Sequence[PreparedRun], options: argparse.Namespace) -> None:
    """Print who is served in time under each discipline.

    Args:
        load: told.
        runs: by seed.
        options: the device, and which towers.
    """
    name = options.towers.split(",")[0]
    tower = tower_on(device(options.device), name)
    print(f"\n{name} on {options.device} at load {load:g}: by discipline, without and with the guard\n")
    print("| discipline | guard | goodput % | in time %: P0 | P1 | P2 | TTFT p95 ms |")
    print("|---|---|---|---|---|---|---|")
    for guard in (None, 1.0):
        for discipline in ("fcfs", "vision", "priority", "slo"):
            limits = LIMITS.replace(discipline=discipline, ttft_guard=guard)
            results = [served(promised(run), tower, limits) for run in runs]
            shares = [
                interval([100 * result.slo_met[result.requests.priority == p].mean() for result in results])
                for p in range(3)
            ]
            print(
                f"| `{discipline}` | {'on' if guard else 'off'} "
                f"| {interval([100 * result.goodput_fraction for result in results])} | {' | '.join(shares)} "
                f"| {interval([result.percentile_ms('ttft_ms', 95) for result in results], 0)} |",
                flush=True,
            )


def main() -> None:
    """Print the tables."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--device", default="H100-80GB")
    parser.add_argument("--model", default="Llama-3-8B")
    parser.add_argument("--towers", default="clip-vit-l14,internvit-6b")
    parser.add_argument("--load", type=float, default=1.1)
    parser.add_argument("--overload", type=float, default=1.5)
    parser.add_argument("--seeds", type=int, default=10)
    options = parser.parse_args()
    caches(options.load, [prepare(scenario(options.load, options), seed) for seed in range(options.seeds)], options)
    over = [prepare(scenario(options.overload, options), seed) for seed in range(options.seeds)]
    disciplines(options.overload, over, options)


if __name__ == "__main__":
    main()
