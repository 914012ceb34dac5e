"""How many decisions a second the environment takes, single and vector, side by side; `python benchmarks/bench_env.py`.

Rows differ in how fast they go; the last column says how often the first one. Episodes are replayed from 64 workload
seeds, prepared beforehand; the line "new episodes" draws each anew.
"""

from __future__ import annotations

import argparse
import time
from collections.abc import Callable
from typing import Any

import numpy as np

from batchpilot.envs import BatchingEnv, BatchingVectorEnv, prepare

SEEDS = range(64)


def decisions_per_s(step: Callable[[Any], Any], actions: list[Any], rows: int, seconds: float) -> float:
    """Decisions per second over so many seconds."""
    count, start = 0, time.perf_counter()
    while (elapsed := time.perf_counter() - start) < seconds:
        step(actions[count % len(actions)])
        count += 1
    return rows * count / elapsed


def single(scenario: str, seconds: float) -> float:
    env = BatchingEnv(scenario, seeds=SEEDS)
    prepare_all(env)
    env.reset(seed=0)
    env.action_space.seed(0)

    def step(action: Any) -> None:
        *_, terminated, truncated, _ = env.step(action)
        if terminated or truncated:
            env.reset()

    return decisions_per_s(step, [env.action_space.sample() for _ in range(500)], 1, seconds)


def vector(scenario: str, rows: int, threads: int | None, seconds: float, *, recurring: bool = True) -> float:
    envs = BatchingVectorEnv(rows, scenario, seeds=SEEDS if recurring else None, threads=threads)
    if recurring:
        prepare_all(envs)
    envs.reset(seed=0)
    envs.action_space.seed(0)
    return decisions_per_s(envs.step, [envs.action_space.sample() for _ in range(500)], rows, seconds)


def prepare_all(env: BatchingEnv | BatchingVectorEnv) -> None:
    """Draw every seed once, so that the measurement sees the steady state."""
    rng = np.random.default_rng(0)
    for scenario in env.task.scenarios:
        for seed in SEEDS:
            env.task.draw(rng, {"scenario": scenario.name, "workload_seed": seed})


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--scenario", default="quick-chat")
    parser.add_argument("--seconds", type=float, default=3.0, help="measured time of each line")
    parser.add_argument("--rows", type=int, nargs="+", default=[1, 16, 64])
    parser.add_argument("--threads", type=int, nargs="+", default=[1], help="also with so many threads")
    options = parser.parse_args()

    run = prepare(next(iter(BatchingEnv(options.scenario).task.scenarios)), 0)
    print(f"{options.scenario}: {len(run.requests)} requests, one decision every {run.window_ms:.0f} ms of engine time")
    lines = [("single", single(options.scenario, options.seconds))]
    for rows in options.rows:
        lines.append((f"vector, {rows} rows", vector(options.scenario, rows, None, options.seconds)))
        lines += [
            (f"vector, {rows} rows, threads={n}", vector(options.scenario, rows, n, options.seconds))
            for n in options.threads
        ]
    most = max(options.rows)
    fresh = vector(options.scenario, most, None, options.seconds, recurring=False)
    lines.append((f"vector, {most} rows, new episodes", fresh))
    for name, rate in lines:
        print(f"{name:36} {rate:10,.0f} decisions/s  {rate / lines[0][1]:7.1f} x single")


if __name__ == "__main__":
    main()
