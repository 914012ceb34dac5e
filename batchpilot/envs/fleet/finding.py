"""What replicas find in their prefix caches, told beforehand: one of them serves its share of the requests."""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

from batchpilot.core.limits import Limits
from batchpilot.engines import simulate
from batchpilot.engines.simulated.config import EngineConfig
from batchpilot.envs.scenarios import capacity_per_s
from batchpilot.workloads.conversations import new_tokens
from batchpilot.workloads.table import RequestTable

_REQUESTS = 400
"""As many are looked at; as many before them fill the cache."""

_LOAD = 0.5
_LIMITS = Limits(256, token_budget=8192)


def found_in_turns(
    engine: EngineConfig, requests: RequestTable, replicas: int
) -> tuple[RequestTable, NDArray[np.int64]]:
    """Requests that one replica gets where replicas take turns, and the prompt tokens that it finds of each.

    They are served at half of what it would take without a cache. A router that looks for prefixes finds more. A turn
    of a conversation finds the turn before it, as where a router sends both to one replica.

    Args:
        engine: the replica's.
        requests: that come to all of them, at least one.
        replicas: how many there are, >= 1.

    Returns:
        n requests in their order, and tokens of shape (n,): 0 without a prefix cache or anything in common.
    """
    if requests.turns is not None:
        return _found_by_turns(engine, requests)
    turns = min(replicas, max(len(requests) // 2, 1))
    own = requests.select(slice(0, 2 * _REQUESTS * turns, turns))
    looked_at = slice(len(own) // 2, None)
    if not engine.prefix_cache or own.prefixes is None:
        return own.select(looked_at), np.zeros(len(own.select(looked_at)), np.int64)
    means = float(own.prompt_tokens.mean()), float(own.output_tokens.mean())
    rate_per_s = _LOAD * capacity_per_s(engine.latency, engine.capacity_tokens, *means)
    lasting_s = own.duration_ms / 1000.0
    served = simulate(
        own.scale_rate(rate_per_s * lasting_s / len(own)) if lasting_s > 0 else own,
        engine.latency,
        _LIMITS,
        estimate=engine.latency,
        kv_capacity_tokens=engine.capacity_tokens,
        block_size=engine.block_size,
        prefix_cache=True,
    )
    assert served.cached_tokens is not None
    return own.select(looked_at), served.cached_tokens[looked_at]


def _found_by_turns(engine: EngineConfig, requests: RequestTable) -> tuple[RequestTable, NDArray[np.int64]]:
    looked_at = slice(0, 2 * _REQUESTS)
    own = requests.select(looked_at)
    if not engine.prefix_cache or own.prefixes is None:
        return own, np.zeros(len(own), np.int64)
    return own, (requests.prompt_tokens - new_tokens(requests))[looked_at]


def share_found(engine: EngineConfig, requests: RequestTable, replicas: int) -> float:
    """Share of the prompt tokens that a replica finds in its prefix cache where replicas take turns.

    Args:
        engine: the replica's.
        requests: that come to all of them, at least one.
        replicas: how many there are, >= 1.
    """
    own, found = found_in_turns(engine, requests, replicas)
    return float(found.sum() / own.prompt_tokens.sum())
