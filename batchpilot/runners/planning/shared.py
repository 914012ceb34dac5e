"""Load whose prompts have beginnings in common: requests in their order, and what an engine's cache finds of them."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
from numpy.typing import NDArray

from batchpilot.core.limits import Limits
from batchpilot.engines import MemoryModel, simulate
from batchpilot.envs.scenarios import capacity_per_s
from batchpilot.latency.model.saturation import SaturationParameters
from batchpilot.latency.planning.demand import Demand
from batchpilot.workloads import RequestTable

REQUESTS = 512
"""Requests that stand for the mix; as many before them fill the cache."""

_LOAD = 0.5
_LIMITS = Limits(256, token_budget=8192)
_STREAM = 24


def in_their_order(shared: RequestTable, arrival_ms: NDArray[np.float64], first: int) -> RequestTable:
    """Requests that follow one another, come at other times; behind the last come others of the same kinds.

    Args:
        shared: the requests, with block hashes.
        arrival_ms: ascending, shape (n,).
        first: the first one's place.

    Returns:
        n requests; those of one round have nothing in common with those of another.
    """
    places = first + np.arange(len(arrival_ms))
    taken = shared.select(places % len(shared))
    prefixes = None if taken.prefixes is None else taken.prefixes.apart(places // len(shared))
    return replace(taken, arrival_ms=arrival_ms, prefixes=prefixes)


def demand_beside_cache(shared: RequestTable, latency: SaturationParameters, memory: MemoryModel) -> Demand:
    """What requests ask of an engine that keeps beginnings of prompts, as many as its memory holds.

    They are served once, at half of what the engine would take without a cache, and what was found is told.

    Args:
        shared: requests in their order, with block hashes.
        latency: of the engine's steps.
        memory: of its device.
    """
    prompt, output = float(shared.prompt_tokens.mean()), float(shared.output_tokens.mean())
    rate_per_s = _LOAD * capacity_per_s(latency, memory.kv_capacity_tokens, prompt, output)
    gaps_ms = np.random.default_rng(_STREAM).exponential(1000.0 / rate_per_s, 2 * REQUESTS)
    requests = in_their_order(shared, np.cumsum(gaps_ms), 0)
    served = simulate(requests, latency, _LIMITS, memory=memory, estimate=latency, prefix_cache=True)
    assert served.cached_tokens is not None
    lengths = (requests.prompt_tokens, requests.output_tokens, served.cached_tokens)
    return Demand(*(column[REQUESTS:].astype(np.float64) for column in lengths))
