"""What does a tuner cost? `ask` and `tell` of every tuner, over the windows of a real run.

    python benchmarks/bench_tuners.py

Median over repeats on one core; the last columns are ratios to the budgets (ask 1 us, tell 10 us; a policy 50 us).
The policies have random weights and the usual size, 35 features through two layers of 64: one by itself, one between
rails.
"""

from __future__ import annotations

import statistics
import time
from collections.abc import Callable
from functools import partial
from itertools import pairwise

import numpy as np

from batchpilot.baselines import SERVER_DEFAULT
from batchpilot.configs.scenario import scenario
from batchpilot.core import Tuner, WindowMetrics
from batchpilot.core.actions import ActionTable
from batchpilot.core.features import FEATURE_NAMES
from batchpilot.core.limits import TRACKS
from batchpilot.engines import SimulatedEngine
from batchpilot.envs import prepare
from batchpilot.tuners import TUNERS, make_tuner
from batchpilot.tuners.policy.description import PolicyDescription
from batchpilot.tuners.policy.file import PolicyFile
from batchpilot.tuners.policy.layout import OPSET
from batchpilot.tuners.policy.loading import policy_tuner
from batchpilot.tuners.policy.network import Network

ASK_BUDGET_US = 1.0
TELL_BUDGET_US = 10.0
POLICY_BUDGET_US = 50.0
HIDDEN = (64, 64)
NEED_MORE = ("policy", "optuna-tpe", "optuna-gp", "optuna-cmaes")
"""Tuners that need a file, or packages of an extra."""

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


def random_policy() -> PolicyFile:
    """A policy as it would be read from a file."""
    rng = np.random.default_rng(0)
    table = ActionTable(TRACKS["limits"], SERVER_DEFAULT)
    widths = [len(FEATURE_NAMES), *HIDDEN, sum(table.sizes)]
    network = Network(
        mean=np.full(widths[0], 0.5, np.float32),
        std=np.ones(widths[0], np.float32),
        clip=10.0,
        weights=tuple(rng.standard_normal((b, a)).astype(np.float32) for a, b in pairwise(widths)),
        biases=tuple(np.zeros(width, np.float32) for width in widths[1:]),
        activations=("Tanh",) * len(HIDDEN),
        sizes=table.sizes,
    )
    seen = PolicyDescription("limits", table, observation_low=(-1.0,) * widths[0], observation_high=(2.0,) * widths[0])
    return PolicyFile(network, seen, digest="", opset=OPSET, producer="benchmark", size_bytes=0)


def builders() -> dict[str, Callable[[], Tuner]]:
    """What builds each tuner."""
    policy = random_policy()
    named = {name: partial(make_tuner, name, base=SERVER_DEFAULT) for name in TUNERS if name not in NEED_MORE}
    return {
        **named,
        "policy, bare": partial(policy_tuner, policy, rails=False),
        "policy": partial(policy_tuner, policy),
    }


def main() -> None:
    print(f"{'tuner':20s} {'ask us':>8s} {'tell us':>8s} {'tell p95':>9s} {'ask/budget':>11s} {'tell/budget':>12s}")
    for name, build in builders().items():
        windows = windows_of(build())
        tells: list[float] = []
        for _ in range(5):
            tuner = build()
            for window in windows:
                started = time.perf_counter_ns()
                tuner.tell(window)
                tells.append((time.perf_counter_ns() - started) / 1000.0)
        started = time.perf_counter_ns()
        for _ in range(ASKS):
            tuner.ask()
        ask = (time.perf_counter_ns() - started) / 1000.0 / ASKS
        tell, p95 = statistics.median(tells), statistics.quantiles(tells, n=20)[-1]
        budget = POLICY_BUDGET_US if name.startswith("policy") else TELL_BUDGET_US
        print(f"{name:20s} {ask:8.3f} {tell:8.2f} {p95:9.2f} {ask / ASK_BUDGET_US:11.2f} {tell / budget:12.2f}")


if __name__ == "__main__":
    main()
