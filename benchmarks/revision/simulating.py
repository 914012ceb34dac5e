"""Works on the simulation: an hour of a trace, the environment, tuners that are told windows."""

from __future__ import annotations

import importlib
import statistics
import time
from collections.abc import Callable
from functools import cache
from pathlib import Path
from typing import Any

from revision.side import FAST, SLOW, NotAvailableError, Run, found, parameters, same_devices, timed

HELD_OUT = ("held-steady-70b-h100", "held-burst-code-h100", "held-overload-2-m3", "held-mix-shift-h100")


def hour(windows_per_s: float) -> Callable[[Path, Path], Run]:
    """The conversation hour at batch 256."""

    def prepare(_: Path, traces: Path) -> Run:
        table, latency = conversation(traces), parameters(FAST)
        simulate, limits = found("batchpilot:simulate"), found("batchpilot:Limits")(256, 2048)
        window_ms = 1000.0 / windows_per_s if windows_per_s else 1e12
        return lambda: timed(
            lambda: simulate(table, latency, limits, window_ms=window_ms, kv_capacity_tokens=450_000), times=5
        )

    return prepare


def slow_hour(_: Path, traces: Path) -> Run:
    """The hour six times as busy on a slow device, some 860 requests running at a time."""
    fast = conversation(traces)
    table = found("batchpilot:RequestTable").from_arrays(fast.arrival_ms / 6.0, fast.prompt_tokens, fast.output_tokens)
    simulate, limits, latency = found("batchpilot:simulate"), found("batchpilot:Limits")(1024, 8192), parameters(SLOW)
    return lambda: timed(lambda: simulate(table, latency, limits, window_ms=1e12))


def environment(rows: int, threads: int | None) -> Callable[[Path, Path], Run]:
    """Decisions of random agents in the environment."""

    def prepare(_: Path, __: Path) -> Run:
        same_devices()
        envs = importlib.import_module("batchpilot.envs")
        seeds = range(16)
        if rows == 1:
            env = envs.BatchingEnv("quick-chat", seeds=seeds)
        else:
            env = envs.BatchingVectorEnv(rows, "quick-chat", seeds=seeds, threads=threads)
        env.reset(seed=0)
        env.action_space.seed(0)
        actions = [env.action_space.sample() for _ in range(200)]

        def run() -> dict[str, Any]:
            started = time.perf_counter()
            for action in actions:
                *_, terminated, truncated, _ = env.step(action)
                if rows == 1 and (terminated or truncated):
                    env.reset()
            return {"value": rows * len(actions) / (time.perf_counter() - started)}

        run()
        return run

    return prepare


def planner(_: Path, __: Path) -> Run:
    """Tells of `model-based` on some held-out scenarios, their engines alike in both revisions."""
    same_devices()
    prepare, scenario = found("batchpilot.envs:prepare"), found("batchpilot.configs.scenario:scenario")
    run_engine = found("batchpilot.engines.simulated.simulation:run_engine", "batchpilot.engines.simulation:run_engine")
    engine_class = found("batchpilot.engines:SimulatedEngine")
    make_tuner, base = found("batchpilot.tuners:make_tuner"), found("batchpilot.baselines:SERVER_DEFAULT")
    runs = [prepare(scenario(name), 0) for name in HELD_OUT]

    def run() -> dict[str, Any]:
        times, good = [], []
        for ready in runs:
            tuner = make_tuner("model-based", base=base, latency=ready.engine.believed_latency(), track="guarded")
            tell = tuner.tell

            def measured(window: Any, tell: Callable[[Any], None] = tell) -> None:
                started = time.perf_counter()
                tell(window)
                times.append(time.perf_counter() - started)

            tuner.tell = measured
            engine = engine_class(ready.engine, ready.requests, record_steps=True)
            result = run_engine(engine, tuner, window_ms=ready.window_ms, horizon_ms=ready.horizon_ms)
            good.append(result.goodput_fraction)
        return {"value": 1e3 * statistics.fmean(times), "goodput": round(statistics.fmean(good), 4)}

    return run


def probe(_: Path, __: Path) -> Run:
    """The 95th percentile of a probe tuner's tells over a saturated run of ten minutes."""
    same_devices()
    prepare, scenario = found("batchpilot.envs:prepare"), found("batchpilot.configs.scenario:scenario")
    make_tuner, engine_class = found("batchpilot.tuners:make_tuner"), found("batchpilot.engines:SimulatedEngine")
    base = found("batchpilot.baselines:SERVER_DEFAULT")
    heard: dict[str, list[Any]] = {}
    for name in ("dynamic", "hybrid"):
        run, tuner = prepare(scenario("overload-1.3-a100"), 0), make_tuner(name, base=base)
        engine, heard[name] = engine_class(run.engine, run.requests), []
        while not engine.finished:
            engine.set_limits(tuner.ask())
            window, _ = engine.run_window(engine.now_ms + run.window_ms)
            tuner.tell(window)
            heard[name].append(window)

    def p95_us(name: str) -> float:
        tells = []
        for _ in range(5):
            tuner = make_tuner(name, base=base)
            for window in heard[name]:
                started = time.perf_counter_ns()
                tuner.tell(window)
                tells.append((time.perf_counter_ns() - started) / 1000.0)
        return statistics.quantiles(tells, n=20)[-1]

    return lambda: {"value": max(p95_us(name) for name in heard)}


@cache
def conversation(traces: Path) -> Any:
    """The published conversation trace, an hour."""
    path = traces / "AzureLLMInferenceTrace_conv.csv"
    if not path.exists():
        raise NotAvailableError(f"no trace at {path}; say --traces FOLDER")
    return found("batchpilot.workloads:read_trace")(path, "azure2023")
