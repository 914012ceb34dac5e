"""The column of a load test that no server gave: the same requests on the simulated engine."""

from __future__ import annotations

import math
from dataclasses import replace

import numpy as np

from batchpilot.core.limits import Limits
from batchpilot.core.tuner import Tuner
from batchpilot.engines import EngineConfig, SimulatedEngine, SimulationResult, run_engine
from batchpilot.workloads.table import RequestTable


def simulated(
    config: EngineConfig, requests: RequestTable, limits_or_tuner: Limits | Tuner, *, window_ms: float, grace_s: float
) -> SimulationResult:
    """Simulate what a load test sends, as long as it lasts.

    Args:
        config: of the engine.
        requests: what is sent.
        limits_or_tuner: what it runs with.
        window_ms: length of a window.
        grace_s: how long answers are waited for after the last request was due.
    """
    waits = requests.concurrency or requests.turns is not None
    horizon_ms = None if waits else float(requests.arrival_ms[-1]) + 1000.0 * grace_s
    engine = SimulatedEngine(config, requests, record_steps=getattr(limits_or_tuner, "needs_details", False))
    result = run_engine(engine, limits_or_tuner, window_ms=window_ms, horizon_ms=horizon_ms)
    arrival_ms = result.requests.arrival_ms
    ended_ms = float(np.nanmax(arrival_ms + result.e2e_ms, initial=0.0))
    # A load test is over with its last answer; a simulation runs idle to its horizon.
    over = math.inf if result.count("unfinished") else ended_ms
    return replace(result, elapsed_ms=min(result.elapsed_ms, over) - float(arrival_ms[0]))
