"""How a run used its device: peaks, KV cache, bandwidth and operations, energy, money, as columns of a result row."""

from __future__ import annotations

import math
from collections.abc import Sequence

from batchpilot.configs.catalogue import device as find_device
from batchpilot.configs.catalogue import model as find_model
from batchpilot.configs.catalogue import powers, prices
from batchpilot.engines.simulated.result import SimulationResult
from batchpilot.envs.scenarios import PreparedRun
from batchpilot.latency.model.intensity import Intensity, step_intensity
from batchpilot.latency.planning.energy import EnergyModel, Work


def device_use(run: PreparedRun, result: SimulationResult) -> dict[str, float]:
    """Peaks, memory in use, what the mean step asked of the device, energy and cost; NaN where it is not known.

    Args:
        run: what was run.
        result: what came of it.
    """
    kv = [window.kv_used_fraction for window in result.windows]
    memory = [w.memory_used_mb / w.memory_total_mb for w in result.windows if w.memory_total_mb > 0]
    step = _mean_step(run, result)
    return {
        "utilisation_peak": largest([window.utilisation for window in result.windows]),
        "bandwidth_utilisation": math.nan if step is None else step.bandwidth_utilisation,
        "compute_utilisation": math.nan if step is None else step.compute_utilisation,
        "flop_per_byte": math.nan if step is None else step.flop_per_byte,
        "memory_utilisation": sum(memory) / len(memory) if memory else math.nan,
        "kv_used_mean": sum(kv) / len(kv) if kv else math.nan,
        "kv_used_peak": largest(kv),
        "joules_per_token": joules_per_token(run, result),
        "usd_per_million": usd_per_million(run, result),
    }


def joules_per_token(run: PreparedRun, result: SimulationResult) -> float:
    """Energy of an output token that was served within SLO, idle time included: a model; NaN without the power known.

    Args:
        run: what was run.
        result: what came of it.
    """
    told, in_time = run.scenario, float(result.generated_tokens[result.slo_met].sum())
    try:
        device, model = find_device(told.device), find_model(told.model)
    except ValueError:
        return math.nan
    power = powers().get(device.name)
    if power is None or not in_time:
        return math.nan
    steps = float(sum(window.steps for window in result.windows))
    tokens, context = (
        sum(getattr(window, name) * window.steps for window in result.windows if window.steps)
        for name in ("tokens_per_step_mean", "context_tokens_mean")
    )
    work = Work(sum(window.busy_ms for window in result.windows), steps, tokens, context)
    energy = EnergyModel(power, device, model, told.tensor_parallel, told.dtype)
    return energy.joules(work, result.elapsed_ms / 1000.0) / in_time


def usd_per_million(run: PreparedRun, result: SimulationResult) -> float:
    """Cost of a million output tokens that were served within SLO, in US dollars; NaN without a price.

    Args:
        run: what was run.
        result: what came of it.
    """
    try:
        price = prices().get(find_device(run.scenario.device).name)
    except ValueError:
        return math.nan
    in_time = float(result.generated_tokens[result.slo_met].sum())
    if price is None or not in_time:
        return math.nan
    hours = result.elapsed_ms / 3.6e6
    return 1e6 * run.scenario.tensor_parallel * price.usd_per_hour * hours / in_time


def largest(values: Sequence[float]) -> float:
    """The largest that is known, NaN without one.

    Args:
        values: any.
    """
    return max((value for value in values if not math.isnan(value)), default=math.nan)


def _mean_step(run: PreparedRun, result: SimulationResult) -> Intensity | None:
    """None without a step, or where device or model are not catalogued, as those of a real engine."""
    steps = sum(window.steps for window in result.windows)
    if not steps:
        return None
    tokens, context, step_ms = (
        sum(getattr(window, name) * window.steps for window in result.windows if window.steps) / steps
        for name in ("tokens_per_step_mean", "context_tokens_mean", "step_ms_mean")
    )
    told = run.scenario
    try:
        device, model = find_device(told.device), find_model(told.model)
        return step_intensity(
            device, model, tokens, context, step_ms, tensor_parallel=told.tensor_parallel, dtype=told.dtype
        )
    except ValueError:
        return None
