"""Load of which an engine keeps something, beginnings of prompts or images: requests in their order, what is found."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
from numpy.typing import NDArray

from batchpilot.core.image_sizes import image_tokens
from batchpilot.core.limits import Limits
from batchpilot.engines import MemoryModel, simulate
from batchpilot.envs.scenarios import capacity_per_s
from batchpilot.latency.model.saturation import SaturationParameters
from batchpilot.latency.model.vision_tower import VisionTower
from batchpilot.latency.planning.demand import Demand
from batchpilot.workloads import RequestTable

REQUESTS = 512
"""Requests that stand for the mix; as many before them fill the cache."""

FREE = VisionTower()
"""An encoding that costs nothing."""

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
        n requests; those of one round have nothing in common with those of another, no image either.
    """
    places = first + np.arange(len(arrival_ms))
    taken = shared.select(places % len(shared))
    prefixes = None if taken.prefixes is None else taken.prefixes.apart(places // len(shared))
    images = None if taken.images is None else taken.images.apart(places // len(shared))
    return replace(taken, arrival_ms=arrival_ms, prefixes=prefixes, images=images)


def demand_with_images(shared: RequestTable, tower: VisionTower) -> Demand:
    """What requests with images ask of an engine without a prefix cache: some of them that stand for all.

    Which of their images are found encoded is told of all of them, in their order, from an empty cache on.

    Args:
        shared: requests in their order.
        tower: what encodes, and how many features are kept.
    """
    encode_ms = encoding_ms(shared, tower)
    some = np.unique(np.linspace(0, len(shared) - 1, min(REQUESTS, len(shared))).round().astype(np.int64))
    columns = (shared.prompt_tokens[some], shared.output_tokens[some], np.zeros(len(some)), encode_ms[some])
    return Demand(*(column.astype(np.float64) for column in columns))


def encoding_ms(
    requests: RequestTable, tower: VisionTower, cached_tokens: NDArray[np.int64] | None = None
) -> NDArray[np.float64]:
    """Time that encoding the images of each request takes, of each by itself, shape (n,).

    In company it takes less: a pass over several images of one size is paid once.

    Args:
        requests: in their order.
        tower: what encodes, and how many features are kept.
        cached_tokens: of prompts whose beginnings are found, shape (n,); images among them are not encoded.
    """
    if requests.images is None:
        return np.zeros(len(requests))
    encoded = requests.images.encoded(tower.feature_cache, cached_tokens)
    times = np.where(encoded, tower.pass_ms + tower.token_ms * image_tokens(requests.images.side_px), 0.0)
    return np.asarray(times.sum(axis=1))


def demand_beside_cache(
    shared: RequestTable, latency: SaturationParameters, memory: MemoryModel, tower: VisionTower = FREE
) -> Demand:
    """What requests ask of an engine that keeps beginnings of prompts, as many as its memory holds.

    They are served once, at half of what the engine would take without a cache, and what was found is told.

    Args:
        shared: requests in their order, with block hashes.
        latency: of the engine's steps.
        memory: of its device.
        tower: what encodes images.
    """
    prompt, output = float(shared.prompt_tokens.mean()), float(shared.output_tokens.mean())
    rate_per_s = _LOAD * capacity_per_s(latency, memory.kv_capacity_tokens, prompt, output)
    gaps_ms = np.random.default_rng(_STREAM).exponential(1000.0 / rate_per_s, 2 * REQUESTS)
    requests = in_their_order(shared, np.cumsum(gaps_ms), 0)
    served = simulate(requests, latency, _LIMITS, memory=memory, estimate=latency, prefix_cache=True, vision=tower)
    assert served.cached_tokens is not None
    lengths = (requests.prompt_tokens, requests.output_tokens, served.cached_tokens)
    columns = (*lengths, encoding_ms(requests, tower, served.cached_tokens))
    return Demand(*(column[REQUESTS:].astype(np.float64) for column in columns))
