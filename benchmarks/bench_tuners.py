"""What does a tuner cost? `ask` and `tell` of every tuner, over the windows of a real run.

    python benchmarks/bench_tuners.py

Median over repeats on one core; the last columns are ratios to the budgets (ask 1 us, tell 10 us).
"""

from __future__ import annotations

import statistics
import time

from batchpilot.baselines import SERVER_DEFAULT
from batchpilot.configs.scenario import scenario
from batchpilot.core import Tuner, WindowMetrics
from batchpilot.engines import SimulatedEngine
from batchpilot.envs import prepare
from batchpilot.tuners import TUNERS, make_tuner

ASK_BUDGET_US = 1.0
TELL_BUDGET_US = 10.0
ASKS = 200_000


def windows_of(tuner: Tuner) -> list[WindowMetrics]:
    """The windows that a tuner hears in a saturated run of ten minutes."""
    run = prepare(scenario("overload-1.3-a100"), 0)
    engine = SimulatedEngine(run.engine, run.requests)
    heard = []
    while not engine.finished:
        engine.set_limits(tuner.ask())
        window, _ = engine.run_window(engine.now_ms + run.window_ms)
        tuner.tell(window)
        heard.append(window)
    return heard


def main() -> None:
    print(f"{'tuner':20s} {'ask us':>8s} {'tell us':>8s} {'tell p95':>9s} {'ask/budget':>11s} {'tell/budget':>12s}")
    for name in TUNERS:
        windows = windows_of(make_tuner(name, base=SERVER_DEFAULT))
        tells: list[float] = []
        for _ in range(5):
            tuner = make_tuner(name, base=SERVER_DEFAULT)
            for window in windows:
                started = time.perf_counter_ns()
                tuner.tell(window)
                tells.append((time.perf_counter_ns() - started) / 1000.0)
        started = time.perf_counter_ns()
        for _ in range(ASKS):
            tuner.ask()
        ask = (time.perf_counter_ns() - started) / 1000.0 / ASKS
        tell, p95 = statistics.median(tells), statistics.quantiles(tells, n=20)[-1]
        print(f"{name:20s} {ask:8.3f} {tell:8.2f} {p95:9.2f} {ask / ASK_BUDGET_US:11.2f} {tell / TELL_BUDGET_US:12.2f}")


if __name__ == "__main__":
    main()
