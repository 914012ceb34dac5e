"""`simulate`: requests, a latency model and limits or a tuner in; what happened to every request out."""

from __future__ import annotations

import math
import time
from collections.abc import Mapping, Sequence
from pathlib import Path

from batchpilot.core.limits import Limits
from batchpilot.core.metrics import WindowMetrics
from batchpilot.core.slo import SLO
from batchpilot.core.speculation import Speculation
from batchpilot.core.tenants import TenantTerms
from batchpilot.core.tuner import Tuner
from batchpilot.engines.scheduler.details import DetailsReader, believe
from batchpilot.engines.scheduler.executor import Executor
from batchpilot.engines.simulated.config import EngineConfig, EngineMemory
from batchpilot.engines.simulated.engine import SimulatedEngine
from batchpilot.engines.simulated.result import SimulationResult, collect
from batchpilot.latency.model.saturation import SaturationParameters
from batchpilot.latency.model.vision_tower import VisionTower
from batchpilot.workloads.table import RequestTable


def simulate(
    requests: RequestTable,
    latency: SaturationParameters | str | Path,
    limits_or_tuner: Limits | Tuner,
    *,
    kv_capacity_tokens: int | None = None,
    slo: SLO | Sequence[SLO] | None = None,
    window_ms: float = 1000.0,
    discipline: str = "fcfs",
    estimate: SaturationParameters | str | Path | None = None,
    mode: str = "continuous",
    prefill: str = "chunked",
    block_size: int = 16,
    max_model_len: int | None = None,
    prefix_cache: bool = False,
    vision: VisionTower | None = None,
    noise: float = 0.0,
    front_ms: float = 0.0,
    drift: Sequence[tuple[float, SaturationParameters]] = (),
    memory: EngineMemory | None = None,
    speculation: Speculation | None = None,
    tenants: Mapping[int, TenantTerms] | None = None,
    horizon_ms: float | None = None,
    record_steps: bool = False,
    seed: int = 0,
) -> SimulationResult:
    """Serve requests on the simulated engine, with constant limits or a tuner.

    Args:
        requests: what arrives; see `RequestTable.from_arrays`.
        latency: true step latency, or the path of a YAML file that holds it.
        limits_or_tuner: limits for the whole run, or a tuner that is asked before and told after every window. The
            tuner goes on from the state it is in; it is not reset.
        kv_capacity_tokens: KV tokens that fit; None for the memory's, or no bound without one.
        slo: replaces the requests' SLOs: one for all, or one a class.
        window_ms: length of a measurement window, > 0; the step that crosses its end still belongs to it.
        discipline: who is next where the limits do not say.
        estimate: the latency that `step_target_ms` and `ttft_guard` believe in; None for the truth with a 10 % error
            drawn from the seed.
        mode: "continuous" or "static" (padded) batching.
        prefill: "chunked", "whole" or "selective".
        block_size: tokens in a KV block.
        max_model_len: longest prompt plus output; a longer request fails on arrival.
        prefix_cache: share KV blocks of equal prefixes, as `requests.prefixes` tells them; not in mode "static".
        vision: what encoding the requests' images costs, and how many features are kept; None for nothing, and 10,000.
        noise: standard deviation of the logarithm of the step-time factor.
        front_ms: from a client to the scheduler and back, part of each TTFT; 0 for a closed loop.
        drift: (start_ms, true parameters from then on), ascending.
        memory: device memory, for its accounting and for out-of-memory failures.
        speculation: how drafts fare where the limits' `speculative_tokens` ask for them.
        tenants: terms by user: weights of the discipline `fair`, ceilings of requests that run at once.
        horizon_ms: stop there and leave the rest unfinished; None runs until every request has ended.
        record_steps: keep start, B, S, C and T of every step.
        seed: of the noise, of which drafts are accepted and of the default estimate.

    Returns:
        What happened, per request, per window and, if recorded, per step.

    Raises:
        ValueError: an argument is outside its bound; the message names it.
    """
    if not (math.isfinite(window_ms) and window_ms > 0):
        raise ValueError(f"window_ms is {window_ms}; it must be above 0 ms")
    if horizon_ms is not None and not horizon_ms >= 0:
        raise ValueError(f"horizon_ms is {horizon_ms}; it must be >= 0 ms, or None to run until all requests end")
    config = EngineConfig(
        latency=_parameters(latency),
        estimate=None if estimate is None else _parameters(estimate),
        kv_capacity_tokens=kv_capacity_tokens,
        block_size=block_size,
        max_model_len=max_model_len,
        mode=mode,
        prefill=prefill,
        discipline=discipline,
        prefix_cache=prefix_cache,
        vision=vision or VisionTower(),
        noise=noise,
        front_ms=front_ms,
        drift=tuple(drift),
        memory=memory,
        speculation=speculation or Speculation(),
        tenants=tenants or {},
        seed=seed,
    )
    engine = SimulatedEngine(config, requests if slo is None else requests.with_slos(slo), record_steps=record_steps)
    return run_engine(engine, limits_or_tuner, window_ms=window_ms, horizon_ms=horizon_ms)


def run_engine(
    engine: Executor, limits_or_tuner: Limits | Tuner, *, window_ms: float, horizon_ms: float | None = None
) -> SimulationResult:
    """Drive a loaded engine window by window.

    Args:
        engine: a simulated or real engine that has not run yet.
        limits_or_tuner: constant limits, or a tuner (anything with `ask` and `tell`).
        window_ms: length of a window, > 0.
        horizon_ms: where to stop; None runs until every request has ended.

    Raises:
        ValueError: neither limits nor a tuner.
    """
    end = math.inf if horizon_ms is None else horizon_ms
    tuner = None if isinstance(limits_or_tuner, Limits) else limits_or_tuner
    if tuner is not None and not all(callable(getattr(tuner, name, None)) for name in ("ask", "tell")):
        raise ValueError(
            f"limits_or_tuner is a {type(tuner).__name__}; it must be Limits, or a tuner with ask and tell"
        )
    done = len(engine.requests) == 0
    if isinstance(limits_or_tuner, Limits) and isinstance(engine, SimulatedEngine) and not (done and end == math.inf):
        engine.set_limits(limits_or_tuner)
        return collect(engine, engine.run_windows(window_ms, end), 0.0)
    reader = DetailsReader(engine) if getattr(tuner, "needs_details", False) else None
    windows: list[WindowMetrics] = []
    tuner_ns = 0
    while engine.now_ms < end and not (done and end == math.inf):
        started = time.perf_counter_ns()
        limits = limits_or_tuner if isinstance(limits_or_tuner, Limits) else limits_or_tuner.ask()
        asked = time.perf_counter_ns()
        engine.set_limits(limits)
        window, done = engine.run_window(min(engine.now_ms + window_ms, end))
        windows.append(window)
        measured = time.perf_counter_ns()
        if tuner is not None:
            if reader is not None:
                tuner.study(reader.read())
            tuner.tell(window)
            estimate = getattr(tuner, "estimate", None)
            if estimate is not None:
                believe(engine, estimate)
            tuner_ns += asked - started + time.perf_counter_ns() - measured
    return collect(engine, windows, tuner_ns / 1e9)


def _parameters(latency: SaturationParameters | str | Path) -> SaturationParameters:
    return latency if isinstance(latency, SaturationParameters) else SaturationParameters.from_yaml(latency)
