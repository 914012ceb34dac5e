"""The works that `against_revision.py` lets two revisions do, by whatever paths each of them has.

Run as a program it is one side: it reads a work's name a line and answers with its figure as JSON.
"""

from __future__ import annotations

import importlib
import json
import math
import statistics
import sys
import tempfile
import time
from collections.abc import Callable
from dataclasses import dataclass
from functools import cache
from pathlib import Path
from types import SimpleNamespace
from typing import Any

Run = Callable[[], dict[str, Any]]
"""Does the work once; its figure is under "value"."""

FAST = {"p_max": 200.0, "k_b": 10.0, "k_s": 0.008, "tau_0": 4.7, "tau_c": 1e-5}
"""A device on which the hour takes 623,000 steps."""

SLOW = {"p_max": 80.0, "k_b": 10.0, "k_s": 0.01, "tau_0": 60.0, "tau_c": 1e-5}
"""A device on which 860 requests run at a time, in 5,200 steps."""

SERVED = {
    "p_max": 8.0,
    "k_b": 0.15,
    "k_s": 0.004,
    "w_0": 20.0,
    "tau_0": 8.0,
    "tau_b": 0.1,
    "tau_s": 0.01,
    "tau_c": 1e-4,
}
"""What stands for every scenario's engine, since the catalogue's devices differ between revisions."""

HELD_OUT = ("held-steady-70b-h100", "held-burst-code-h100", "held-overload-2-m3", "held-mix-shift-h100")


class NotAvailableError(Exception):
    """A side lacks what a work needs."""


@dataclass(frozen=True)
class Work:
    """One work.

    Attributes:
        prepare: from the folders of package and traces to what does it once.
        unit: of its figure.
        more_is_better: whether that is a rate.
    """

    prepare: Callable[[Path, Path], Run]
    unit: str
    more_is_better: bool = False


def found(*places: str) -> Any:
    """The first of some `module:name` that this revision has.

    Args:
        *places: newest first.
    """
    for place in places:
        module, _, name = place.partition(":")
        try:
            return getattr(importlib.import_module(module), name)
        except (ModuleNotFoundError, AttributeError):
            continue
    raise NotAvailableError(f"it has none of {', '.join(places)}")


def timed(run: Callable[[], Any], times: int = 1, scale: float = 1e3) -> dict[str, Any]:
    """The mean time of a call, in ms unless scaled otherwise."""
    started = time.perf_counter()
    for _ in range(times):
        run()
    return {"value": scale * (time.perf_counter() - started) / times}


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


def fitting(steps: int) -> Callable[[Path, Path], Run]:
    """A fit with all its starts and intervals."""

    def prepare(_: Path, __: Path) -> Run:
        observed = synthetic_steps(steps)
        fit = found("batchpilot.latency.fitting.saturation_fit:fit", "batchpilot.latency.fitting:fit")
        return lambda: timed(lambda: fit(observed))

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


def vllm_step(root: Path, _: Path) -> Run:
    """The vLLM adapter's part of a step with 64 running, on the recorded interface; the scheduler's own is off."""
    sys.path.insert(0, str(root / "tests" / ("helpers" if (root / "tests/helpers").exists() else "serving")))
    steps = importlib.import_module("adapter_vllm_steps")
    folder = Path(tempfile.mkdtemp())
    tuned = steps.make_scheduler(vllm_config(steps, folder), {"tuner": "static-default"}, num_blocks=10_000)
    own_s = 0.0

    def timed_apart(method: Callable[..., Any]) -> Callable[..., Any]:
        def wrapper(*arguments: Any) -> Any:
            nonlocal own_s
            started = time.perf_counter()
            try:
                return method(*arguments)
            finally:
                own_s += time.perf_counter() - started

        return wrapper

    vllms = type(tuned).__mro__[1]
    for name in ("schedule", "update_from_output", "get_kv_cache_usage"):
        setattr(vllms, name, timed_apart(getattr(vllms, name)))

    def run() -> dict[str, Any]:
        nonlocal own_s
        for number in range(64):
            tuned.add_request(steps.make_request(f"{time.monotonic_ns()}-{number}", 64, max_tokens=1020))
        for _ in range(20):
            steps.step(tuned)
        costs = []
        while len(tuned.running) == 64:
            own_s, started = 0.0, time.perf_counter()
            plan = tuned.schedule()
            spent = time.perf_counter() - started
            tokens = [[7]] * len(plan.num_scheduled_tokens)
            result = SimpleNamespace(req_ids=list(plan.num_scheduled_tokens), sampled_token_ids=tokens)
            started = time.perf_counter()
            outputs = tuned.update_from_output(plan, result)
            costs.append(spent + time.perf_counter() - started - own_s)
            del plan, outputs  # letting go of them is no part of the adapter
        while tuned.requests:
            steps.step(tuned)
        return {"value": 1e6 * statistics.median(costs)}

    return run


def session(*, each: bool) -> Callable[[Path, Path], Run]:
    """A session's part of a decode step of 128 requests, told together or each by itself."""

    def prepare(_: Path, __: Path) -> Run:
        serving = importlib.import_module("batchpilot.serving")
        facts = serving.EngineFacts(200_000, estimate=(20.0, 0.12, 0.005, 0.0, 1.0, 10.0, 0.02, 0.0, 1e-4))

        def run() -> dict[str, Any]:
            now_ms, entered, steps, said = 0.0, 0, 2000, {}
            told = serving.TunerSession(serving.make_tuner("hybrid"), clock=lambda: now_ms / 1000.0, facts=facts)
            spent = 0.0
            for _ in range(steps):
                started = time.perf_counter()
                while len(said) < 128:
                    entered += 1
                    said[entered] = 100 if entered > 128 else entered % 100 + 1
                    told.on_arrival(entered, 200, ttft_target_ms=2000.0, tpot_target_ms=100.0)
                spent += time.perf_counter() - started
                now_ms += 20.0
                here = list(said)
                ended = [request for request in here if said[request] == 1]
                started = time.perf_counter()
                if each:
                    for request in here:
                        told.on_tokens(request)
                else:
                    told.on_step_tokens(here)
                for request in ended:
                    told.on_finish(request)
                told.limits()
                told.on_step(128, 128, 32_000, 20.0, kv_used_fraction=0.1)
                spent += time.perf_counter() - started
                said = {request: left - 1 for request, left in said.items() if left > 1}
            return {"value": 1e6 * spent / steps}

        return run

    return prepare


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


def training(_: Path, __: Path) -> Run:
    """PPO end to end at 256 rows: one rollout and its update."""
    try:
        importlib.import_module("stable_baselines3")
        torch = importlib.import_module("torch")
    except ModuleNotFoundError as error:
        raise NotAvailableError(f"the extra rl is not installed: {error}") from None
    same_devices()
    rooms = "batchpilot.agents.training"
    load = found(f"{rooms}.config:load_training_config", f"{rooms}_config:load_training_config")
    new_agent, observe = (
        found(f"{rooms}.policy:{name}", f"{rooms}_policy:{name}") for name in ("new_agent", "observe")
    )
    pool = found(f"{rooms}.pool:training_pool", f"{rooms}_pool:training_pool")
    training_env = found(f"{rooms}.run:training_env", f"{rooms}:training_env")
    torch.set_num_threads(1)
    config = load("guarded").changed(pool=16, n_envs=256)
    normalisation = observe(pool(config, 0, 0).runs, config.env_kwargs.table(), config, 0)
    agent = new_agent(config, training_env(config, 0, 0, normalisation), 0)
    decisions = 256 * config.n_steps

    def run() -> dict[str, Any]:
        started = time.perf_counter()
        agent.learn(decisions, reset_num_timesteps=False)
        return {"value": decisions / (time.perf_counter() - started)}

    return run


WORKS: dict[str, Work] = {
    "hour": Work(hour(0), "ms"),
    "hour-1": Work(hour(1), "ms"),
    "hour-4": Work(hour(4), "ms"),
    "slow-hour": Work(slow_hour, "ms"),
    "env": Work(environment(1, None), "decisions/s", more_is_better=True),
    "env-64x2": Work(environment(64, 2), "decisions/s", more_is_better=True),
    "fit": Work(fitting(10_882), "ms"),
    "fit-10000": Work(fitting(10_000), "ms"),
    "fit-100000": Work(fitting(100_000), "ms"),
    "planner": Work(planner, "ms a tell"),
    "vllm-step": Work(vllm_step, "us a step"),
    "session": Work(session(each=False), "us a step"),
    "session-each": Work(session(each=True), "us a step"),
    "probe": Work(probe, "us, p95"),
    "ppo": Work(training, "decisions/s", more_is_better=True),
}
"""In the order of the table. hour-N closes N windows a second; session-each tells every token by a call of its own."""


@cache
def conversation(traces: Path) -> Any:
    """The published conversation trace, an hour."""
    path = traces / "AzureLLMInferenceTrace_conv.csv"
    if not path.exists():
        raise NotAvailableError(f"no trace at {path}; say --traces FOLDER")
    return found("batchpilot.workloads:read_trace")(path, "azure2023")


def parameters(values: dict[str, float]) -> Any:
    """Saturation parameters."""
    return found("batchpilot:SaturationParameters")(**values)


def synthetic_steps(count: int) -> Any:
    """Steps with contexts to 100,000 tokens, 5 % noise."""
    numpy = importlib.import_module("numpy")
    observations = found(
        "batchpilot.latency.fitting.observations:Observations", "batchpilot.latency.observations:Observations"
    )
    rng = numpy.random.default_rng(0)
    requests = rng.integers(1, 65, count)
    tokens = numpy.maximum(requests, rng.integers(1, 2049, count))
    context = rng.integers(0, 100_001, count)
    noise = numpy.exp(0.05 * rng.standard_normal(count))
    return observations.of(requests, tokens, parameters(SERVED).predict(requests, tokens, context) * noise, context)


def vllm_config(steps: Any, folder: Path) -> Any:
    """A server of 256 requests and 2,048 tokens."""
    return steps.make_config(folder, max_num_seqs=256, max_num_batched_tokens=2048)


@cache
def same_devices() -> None:
    """Every scenario's engine is `SERVED`, whatever the revision's catalogue says."""
    scenarios = importlib.import_module("batchpilot.envs.scenarios")
    scenarios.find_latency = lambda *_, **__: SimpleNamespace(parameters=parameters(SERVED), provenance="the same")


def serve(root: Path, traces: Path) -> None:
    """Do works as they are named on standard input."""
    package = Path(str(importlib.import_module("batchpilot").__file__))
    if not package.is_relative_to(root):
        raise SystemExit(f"batchpilot is imported from {package}, not from {root}")
    ready: dict[str, Run] = {}
    for line in sys.stdin:
        name = line.strip()
        try:
            if name not in ready:
                ready[name] = WORKS[name].prepare(root, traces)
            told = ready[name]()
        except NotAvailableError as error:
            told = {"missing": str(error)}
        told = {key: None if isinstance(x, float) and math.isnan(x) else x for key, x in told.items()}
        print(json.dumps(told), flush=True)


if __name__ == "__main__":
    serve(Path(sys.argv[1]), Path(sys.argv[2]))
