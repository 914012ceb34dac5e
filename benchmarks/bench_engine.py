"""How fast is the simulated engine? Steps per second by batch size, requests per second on a trace, and memory.

    python benchmarks/bench_engine.py [--trace FILE]

Every figure is the best of several repeats on one core; the last column is its ratio to the goal.
"""

from __future__ import annotations

import argparse
import resource
import time
from collections.abc import Callable
from pathlib import Path

import numpy as np

from batchpilot import Limits, RequestTable, SaturationParameters, simulate
from batchpilot.engines import EngineConfig, SimulatedEngine
from batchpilot.workloads import read_trace

LATENCY = SaturationParameters(p_max=12.0, k_b=10.0, k_s=0.008, tau_0=5.0, tau_b=0.02, tau_c=3e-4)
GOAL_STEPS_PER_S = 2e6
GOAL_REQUESTS_PER_S = 5e5
GOAL_MEMORY_MB = 300.0
REPEATS = 5


def best_seconds(run: Callable[[], object]) -> float:
    run()
    times = []
    for _ in range(REPEATS):
        started = time.perf_counter()
        run()
        times.append(time.perf_counter() - started)
    return min(times)


def steps_per_s(batch_size: int, limits: Limits) -> float:
    n = batch_size * max(1, 3200 // batch_size)
    table = RequestTable.from_arrays(np.zeros(n), 100, 1000)
    engines = [SimulatedEngine(EngineConfig(latency=LATENCY), table) for _ in range(REPEATS + 1)]
    steps = []

    def run() -> None:
        engine = engines.pop()
        engine.set_limits(limits)
        engine.run_until(np.inf)
        steps.append(engine.close_window().steps)

    return 1.0 / (best_seconds(run) / steps[0])


def line(name: str, value: float, goal: float | None, unit: str, less_is_better: bool = False) -> None:
    ratio = "" if goal is None else f"{goal / value if less_is_better else value / goal:8.2f} x goal"
    print(f"{name:58s} {value:14,.0f} {unit:12s} {ratio}")


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--trace", type=Path, default=Path("../shared/traces/AzureLLMInferenceTrace_conv.csv"))
    options = parser.parse_args()
    for batch_size in (1, 8, 32, 128):
        goal = GOAL_STEPS_PER_S if batch_size == 32 else None
        line(f"decode steps, batch {batch_size}", steps_per_s(batch_size, Limits(batch_size, 2048)), goal, "steps/s")
    guarded = Limits(32, 2048, step_target_ms=100.0, ttft_guard=1e9, discipline="spf")
    line("decode steps, batch 32, step target and guard", steps_per_s(32, guarded), GOAL_STEPS_PER_S, "steps/s")

    if not options.trace.exists():
        print(f"no trace at {options.trace}: requests per second on it not measured")
        return
    table = read_trace(options.trace, "azure2023")
    kv = {"kv_capacity_tokens": 450_000}
    before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    for name, limits in (("shipped default", Limits(256, 2048)), ("batch 32", Limits(32, 2048))):
        seconds = best_seconds(lambda limits=limits: simulate(table, LATENCY, limits, window_ms=1e12, **kv))
        line(f"conversation trace, one window, {name}", len(table) / seconds, GOAL_REQUESTS_PER_S, "requests/s")
    seconds = best_seconds(lambda: simulate(table, LATENCY, Limits(256, 2048), **kv))
    line("conversation trace, a window a second", len(table) / seconds, GOAL_REQUESTS_PER_S, "requests/s")
    result = simulate(table, LATENCY, Limits(256, 2048), record_steps=True, **kv)
    after = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    line(
        f"whole process after the hour ({len(result.step_log):,} steps logged)",
        after / 1024,
        GOAL_MEMORY_MB,
        "MB",
        True,
    )
    line("of which by simulating the hour", (after - before) / 1024, GOAL_MEMORY_MB, "MB", True)


if __name__ == "__main__":
    main()
