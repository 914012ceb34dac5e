"""How fast is the latency model? One prediction, many, their gradient, and a refit on 5000 observations.

    python benchmarks/bench_latency.py

Every figure is the best of several repeats on one core; the last column is its ratio to the goal.
"""

from __future__ import annotations

import time
from collections.abc import Callable

import numpy as np

from batchpilot import SaturationParameters
from batchpilot.latency.fitting.observations import Observations
from batchpilot.latency.fitting.saturation_fit import fit
from batchpilot.latency.model.saturation import step_ms
from batchpilot.latency.model.vectorised import steps_ms

TRUTH = SaturationParameters(p_max=8.0, k_b=0.15, k_s=0.004, w_0=20.0, tau_0=8.0, tau_b=0.1, tau_s=0.01, tau_c=1e-4)
STEPS = 200_000
OBSERVED = 5000
REPEATS = 20


def best_seconds(run: Callable[[], object], calls: int = 1) -> float:
    run()
    times = []
    for _ in range(REPEATS):
        started = time.perf_counter()
        for _ in range(calls):
            run()
        times.append((time.perf_counter() - started) / calls)
    return min(times)


def line(name: str, value: float, unit: str, goal: float | None = None, less_is_better: bool = True) -> None:
    ratio = "" if goal is None else f"{goal / value if less_is_better else value / goal:8.2f} x goal"
    print(f"{name:58s} {value:10.2f} {unit:12s} {ratio}")


def main() -> None:
    rng = np.random.default_rng(0)
    B = rng.integers(1, 65, STEPS).astype(float)
    S = np.maximum(B, rng.integers(1, 2049, STEPS))
    C = B * rng.integers(100, 2000, STEPS)
    p, out = TRUTH.as_array(), np.empty(STEPS)

    line("predict_one, checked", 1e6 * best_seconds(lambda: TRUTH.predict_one(32, 512, 30_000), 10_000), "us", 1.0)
    line("step_ms, compiled, unchecked", 1e6 * best_seconds(lambda: step_ms(p, 32.0, 512.0, 3e4), 10_000), "us", 1.0)
    for name, run in (
        ("predict on arrays, checked", lambda: TRUTH.predict(B, S, C)),
        ("steps_ms on arrays, unchecked", lambda: steps_ms(p, B, S, C, out)),
    ):
        line(name, STEPS / best_seconds(run) / 1e6, "million/s", 50.0, less_is_better=False)
    line("gradient of nine parameters", STEPS / best_seconds(lambda: TRUTH.gradient(B, S, C)) / 1e6, "million/s")

    rows = slice(0, OBSERVED)
    noisy = TRUTH.predict(B, S, C)[rows] * np.exp(0.05 * rng.standard_normal(OBSERVED))
    observed = Observations(B[rows], S[rows], C[rows], noisy)
    near = TRUTH.scaled(1.3)
    for name, again in (
        ("refit on 5000 observations, from 30 % off", lambda: fit(observed, start=near, random=0)),
        ("fit of 5000 observations, 48 random starts, intervals", lambda: fit(observed)),
    ):
        line(name, 1e3 * best_seconds(again), "ms", 100.0)


if __name__ == "__main__":
    main()
