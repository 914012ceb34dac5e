"""How a run used its device: peaks, KV cache, bandwidth and operations, as columns of a result row."""

from __future__ import annotations

import math
from collections.abc import Sequence

from batchpilot.configs.catalogue import device as find_device
from batchpilot.configs.catalogue import model as find_model
from batchpilot.engines.simulated.simulation import SimulationResult
from batchpilot.envs.scenarios import PreparedRun
from batchpilot.latency.model.intensity import Intensity, step_intensity


def device_use(run: PreparedRun, result: SimulationResult) -> dict[str, float]:
    """Peak utilisation, KV cache in use, and what the mean step asked of the device; NaN where it is not known.

    Args:
        run: what was run.
        result: what came of it.
    """
    kv = [window.kv_used_fraction for window in result.windows]
    step = _mean_step(run, result)
    return {
        "utilisation_peak": largest([window.utilisation for window in result.windows]),
        "bandwidth_utilisation": math.nan if step is None else step.bandwidth_utilisation,
        "compute_utilisation": math.nan if step is None else step.compute_utilisation,
        "flop_per_byte": math.nan if step is None else step.flop_per_byte,
        "kv_used_mean": sum(kv) / len(kv) if kv else math.nan,
        "kv_used_peak": largest(kv),
    }


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
