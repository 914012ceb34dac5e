"""Works that learn: a fit of measured steps, a round of PPO."""

from __future__ import annotations

import importlib
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

from revision.side import SERVED, NotAvailableError, Run, found, parameters, same_devices, timed


def fitting(steps: int) -> Callable[[Path, Path], Run]:
    """A fit with all its starts and intervals."""

    def prepare(_: Path, __: Path) -> Run:
        observed = synthetic_steps(steps)
        fit = found("batchpilot.latency.fitting.saturation_fit:fit", "batchpilot.latency.fitting:fit")
        return lambda: timed(lambda: fit(observed))

    return prepare


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
