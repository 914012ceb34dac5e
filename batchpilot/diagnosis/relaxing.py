"""What each limit is worth: the same requests simulated once more with that limit twice as wide. Times in ms."""

from __future__ import annotations

import math
from dataclasses import dataclass, replace
from typing import Any

import numpy as np
from numpy.typing import NDArray

from batchpilot.core.limits import Limits
from batchpilot.core.slo import SLO, typical_target
from batchpilot.diagnosis.evidence import Evidence, Hardware, Interval
from batchpilot.diagnosis.rules import BANDWIDTH, BATCH, COMPUTE, KV, NOTHING, QUEUE, TOKENS
from batchpilot.engines.scheduler.state import LENGTH
from batchpilot.engines.simulated.config import EngineConfig
from batchpilot.engines.simulated.engine import SimulatedEngine
from batchpilot.engines.simulated.result import SimulationResult
from batchpilot.engines.simulated.simulation import run_engine
from batchpilot.latency.model.saturation import SaturationParameters
from batchpilot.workloads.table import RequestTable

WIDER = 2.0
UNSERVED = 10.0
"""Times its target that a request counts as late which was refused, failed or never ended."""

WORTH = 0.02
"""Below so much of lateness saved, as a logarithm, no limit is said to bind."""

SETTINGS_FIRST = 0.5
"""A setting that saves so large a part of what faster hardware would is told first: it costs nothing."""

_HARDWARE = (COMPUTE, BANDWIDTH)


@dataclass(frozen=True, eq=False)
class Relaxed:
    """What the limits are worth.

    Attributes:
        result: of the run as it is.
        lateness: geometric mean over the requests of how many times its target each took, at least 1.
        wider: the same with each limit twice as wide, by limit.
        narrower: the same with batch size and token budget half as wide, by limit.
    """

    result: SimulationResult
    lateness: float
    wider: dict[str, float]
    narrower: dict[str, float]

    @property
    def binds(self) -> str:
        """The limit whose widening saves most; a setting before hardware where it saves half as much."""
        saved = {name: math.log(self.lateness / late) for name, late in self.wider.items()}
        best = max(saved, key=lambda name: saved[name])
        if saved[best] < WORTH:
            return NOTHING
        settings = {name: value for name, value in saved.items() if name not in _HARDWARE}
        first = max(settings, key=lambda name: settings[name])
        return first if settings[first] >= max(SETTINGS_FIRST * saved[best], WORTH) else best

    @property
    def narrowed(self) -> str | None:
        """The setting that should rather be halved: it saves something, and more than any setting twice as wide."""
        best = min(self.narrower, key=lambda name: self.narrower[name])
        others = [late for name, late in self.wider.items() if name not in (*_HARDWARE, KV)]
        saves = self.narrower[best] < min(others) and math.log(self.lateness / self.narrower[best]) >= WORTH
        return best if saves else None


def relax(config: EngineConfig, requests: RequestTable, limits: Limits, window_ms: float = 1000.0) -> Relaxed:
    """Serve the requests as they are, and with each limit twice as wide.

    Args:
        config: the engine; its true latency is what a faster device changes.
        requests: what arrives.
        limits: in force throughout.
        window_ms: of the windows that the result tells.

    Raises:
        ValueError: the limits are out of the engine's bounds.
    """

    def served(engine: EngineConfig, under: Limits) -> SimulationResult:
        return run_engine(SimulatedEngine(engine, requests), under, window_ms=window_ms)

    result = served(config, limits)
    wider = {
        BATCH: (config, limits.replace(batch_size=int(WIDER * limits.batch_size))),
        KV: (replace(config, memory=None, kv_capacity_tokens=int(WIDER * config.capacity_tokens)), limits),
        COMPUTE: (_on(config, compute=WIDER), limits),
        BANDWIDTH: (_on(config, bandwidth=WIDER), limits),
    }
    narrower = {BATCH: (config, limits.replace(batch_size=max(1, limits.batch_size // 2)))}
    if limits.token_budget is not None:
        wider[TOKENS] = (config, limits.replace(token_budget=int(WIDER * limits.token_budget)))
        narrower[TOKENS] = (config, limits.replace(token_budget=max(1, limits.token_budget // 2)))
    if limits.max_queued_tokens is not None:
        wider[QUEUE] = (config, limits.replace(max_queued_tokens=int(WIDER * limits.max_queued_tokens)))
    return Relaxed(
        result,
        lateness(result),
        {name: lateness(served(*how)) for name, how in wider.items()},
        {name: lateness(served(*how)) for name, how in narrower.items()},
    )


def faster(latency: SaturationParameters, *, compute: float = 1.0, bandwidth: float = 1.0) -> SaturationParameters:
    """Step latency on a device with more operations or bytes a second; its fixed costs stay.

    Args:
        latency: on the device as it is.
        compute: times its operations a second, > 0.
        bandwidth: times its bytes a second, > 0.
    """
    return replace(
        latency,
        w_1=latency.w_1 / compute,
        k_s=latency.k_s * bandwidth / compute,
        tau_c=latency.tau_c / bandwidth,
        tau_e=latency.tau_e / bandwidth,
    )


def lateness(result: SimulationResult) -> float:
    """Geometric mean over the requests of how many times its target each took, at least 1.

    Args:
        result: of a run.
    """
    requests = result.requests
    with np.errstate(invalid="ignore"):
        late = np.fmax(result.ttft_ms / requests.ttft_target_ms, result.tpot_ms / requests.tpot_target_ms)
    late[~np.isfinite(result.e2e_ms) | (result.finish_code != LENGTH) | ~np.isfinite(late)] = UNSERVED
    return float(np.exp(np.log(np.maximum(late, 1.0)).mean())) if len(late) else 1.0


def evidence_of(result: SimulationResult, hardware: Hardware | None = None) -> Evidence:
    """What a server would have shown of itself during a run.

    Args:
        result: of the run, under constant limits.
        hardware: it was on.
    """
    windows = [window for window in result.windows if window.duration_ms > 0]
    limits = windows[-1].limits.to_dict() if windows else {}
    requests = result.requests
    arrays = {
        "ttft_ms": result.ttft_ms,
        "tpot_ms": result.tpot_ms,
        "e2e_ms": result.e2e_ms,
        "prompt_tokens": requests.prompt_tokens,
    }
    refused = result.count("refused_on_arrival") + result.count("refused_by_guard")
    return Evidence(
        source="simulation",
        intervals=[
            Interval(
                seconds=window.duration_ms / 1000.0,
                running=window.batch_size_mean,
                waiting=window.queue,
                kv_used=window.kv_used_fraction,
                steps=window.steps,
                tokens_per_step=window.tokens_per_step_mean,
                context_tokens=window.context_tokens_mean,
                step_ms=window.step_ms_mean,
                busy=window.utilisation,
                ended=window.completions + window.refusals + window.failed_requests,
                refused=window.refusals,
                failed=window.failed_requests,
                preempted=window.preemptions,
                memory_mb=window.memory_used_mb or math.nan,
            )
            for window in windows
        ],
        limits={name: float(value) for name, value in limits.items() if isinstance(value, int | float)},
        quantiles={name: _quantiles(values) for name, values in arrays.items()},
        ended={"length": result.count("length"), "failed": result.count("failed"), "refused": refused},
        slo=SLO(typical_target(requests.ttft_target_ms), typical_target(requests.tpot_target_ms), "promised"),
        hardware=hardware,
    )


def _on(config: EngineConfig, **times: float) -> EngineConfig:
    return replace(
        config,
        latency=faster(config.latency, **times),
        estimate=faster(config.believed_latency(), **times),
        drift=tuple((start_ms, faster(latency, **times)) for start_ms, latency in config.drift),
    )


def _quantiles(values: NDArray[Any]) -> dict[int, float]:
    known = values[np.isfinite(values)]
    return {q: float(np.percentile(known, q)) if len(known) else math.nan for q in (50, 95, 99)}
