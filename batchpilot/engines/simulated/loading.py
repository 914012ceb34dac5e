"""Requests into a scheduler's arrays, quickly: the same ones are served again and again, by every strategy. In ms."""

from __future__ import annotations

import math
from collections.abc import Mapping
from functools import lru_cache
from typing import Any, NamedTuple
from weakref import WeakKeyDictionary

import numpy as np
from numpy.typing import NDArray

from batchpilot.core.image_sizes import SIDES_PX
from batchpilot.core.limits import DISCIPLINES
from batchpilot.core.slo import typical_target
from batchpilot.core.speculation import Speculation
from batchpilot.core.tenants import ORDINARY, TenantTerms, has_ceiling
from batchpilot.engines.scheduler.conversations import KNOWN, UNKNOWN
from batchpilot.engines.scheduler.refusals import ROW as REFUSALS
from batchpilot.engines.scheduler.speculation import MODULUS_A, MODULUS_B
from batchpilot.engines.scheduler.state import (
    ABSENT,
    BATCHING_MODES,
    CHAIN,
    IMAGE,
    NO_IMAGE,
    NOBODY,
    OFF_TOKENS,
    ORDINARY_USER,
    PREFILL_MODES,
    REQUEST,
    SchedulerState,
    as_bytes,
)
from batchpilot.engines.simulated.config import EngineConfig
from batchpilot.engines.simulated.contents import Contents, block_contents
from batchpilot.latency.model.saturation import SaturationParameters
from batchpilot.latency.model.vision_tower import VisionTower
from batchpilot.workloads.images import Images
from batchpilot.workloads.table import RequestTable
from batchpilot.workloads.turns import Turns

MOST_REMEMBERED = 50_000
"""Requests of a table above which its records are made anew each time: they are larger than the table."""

NOISE_TABLE = 8192
"""Length of the table of noise factors, which a run goes through again and again."""

_NOISE_STREAM, _ACCEPTANCE_STREAM = 1, 3


class Incoming(NamedTuple):
    """A request table as the scheduler has it.

    Attributes:
        records: of `REQUEST`, shape (n,), nothing done yet.
        ttft_target_ms: typical of them.
        tpot_target_ms: likewise.
    """

    records: NDArray[Any]
    ttft_target_ms: float
    tpot_target_ms: float


_remembered: WeakKeyDictionary[RequestTable, Incoming] = WeakKeyDictionary()
_remembered_contents: WeakKeyDictionary[RequestTable, Contents] = WeakKeyDictionary()


def load(state: SchedulerState, i: int, config: EngineConfig, requests: RequestTable) -> None:
    """Put an engine and its requests into row `i` of a state, at time 0 with nothing running.

    Args:
        state: allocated state with room for the requests, the users, the drift rows and the noise table.
        i: the row.
        config: the engine.
        requests: what will arrive.

    Raises:
        ValueError: the requests, users, drift rows or block contents do not fit.
    """
    n = len(requests)
    users = requests.users
    room = (state.requests.shape[1], state.users.shape[1], state.parameters.shape[1] - 2)
    needed = (n, users, len(config.drift))
    if any(need > have for need, have in zip(needed, room, strict=True)):
        raise ValueError(f"requests, users and drift rows {needed} do not fit the state's {room}")
    if config.front_ms and requests.concurrency:
        raise ValueError(f"front_ms is {config.front_ms}; the clients of a closed loop have none, so leave it at 0")
    incoming = _incoming(requests)
    as_bytes(state.requests)[i, :n] = as_bytes(incoming.records)
    state.noise[i] = _noise(config.seed, config.noise, state.noise.shape[1])
    believed = config.believed_latency()
    state.parameters[i] = math.inf
    state.parameters[i, 0, 1:] = _numbers(believed)
    for k, (start, parameters) in enumerate(((-math.inf, config.latency), *config.drift), 1):
        state.parameters[i, k, 0], state.parameters[i, k, 1:] = start, _numbers(parameters)

    # Nothing but zeros is what `open_window` leaves at time 0; nobody has been refused or served yet.
    for zeroed in (state.clock, state.window):
        as_bytes(zeroed)[i] = np.zeros((), as_bytes(zeroed).dtype)
    state.targets[i, REFUSALS] = 0.0
    as_bytes(state.users)[i] = as_bytes(ORDINARY_USER)
    clock = state.clock.view(np.ndarray)[i]
    clock["n_requests"] = n
    clock["concurrency"] = requests.concurrency
    clock["block_size"] = config.block_size
    clock["total_blocks"] = clock["free_blocks"] = config.capacity_tokens // config.block_size
    clock["max_model_len"] = config.max_model_len or OFF_TOKENS
    clock["mode"] = BATCHING_MODES[config.mode]
    clock["prefill"] = PREFILL_MODES[config.prefill]
    clock["discipline"] = DISCIPLINES[config.discipline]
    clock["wake_ms"] = clock["ttft_guard"] = math.inf
    clock["front_ms"] = config.front_ms
    clock["idle_first"] = clock["idle_last"] = NOBODY
    clock["parameter_row"] = 1
    clock["peak_tokens_per_s"] = _peak_tokens_per_s(believed, config.capacity_tokens)
    clock["ttft_target_ms"] = incoming.ttft_target_ms
    clock["tpot_target_ms"] = incoming.tpot_target_ms
    if config.tenants:
        put_tenants(state, i, np.unique(requests.user), config.tenants)
    put_speculation(state, i, config.speculation, config.seed)
    if config.memory is not None:
        clock["fixed_mb"] = config.memory.fixed_mb
        clock["kv_mb_per_token"] = config.memory.kv_mb_per_token
        clock["activation_mb_per_token"] = config.memory.activation_mb_per_token
        clock["total_mb"] = config.memory.total_mb
    contents = contents_of(config, requests)
    if contents is not None:
        put_contents(state, i, contents)
    if requests.turns is not None:
        put_turns(state, i, requests.turns)
    if requests.images is not None:
        put_images(state, i, requests.images, config.vision)


def put_speculation(state: SchedulerState, i: int | slice, speculation: Speculation, seed: int) -> None:
    """Say in rows of a state how drafts fare, and begin the draws of what is accepted.

    Args:
        state: the state.
        i: the row, or several that draw alike.
        speculation: how.
        seed: of the draws.
    """
    clock = state.clock.view(np.ndarray)
    clock["acceptance"][i] = speculation.acceptance
    clock["acceptance_decay"][i] = speculation.decay
    clock["draft_share"][i] = speculation.draft_share
    clock["draw_a"][i], clock["draw_b"][i] = _first_draws(seed)


def put_tenants(state: SchedulerState, i: int, users: NDArray[np.int64], terms: Mapping[int, TenantTerms]) -> None:
    """Put the tenants' terms into row `i` of a state; nobody has been served yet.

    Args:
        state: with room for the users.
        i: the row; its clock is written before.
        users: of the requests, ascending; the k-th has row k.
        terms: by user; the others' are the ordinary ones.
    """
    table = state.users.view(np.ndarray)[i]
    table[:] = ORDINARY_USER
    if not terms:
        return
    for code, user in enumerate(users.tolist()):
        tenant = terms.get(user, ORDINARY)
        table["weight"][code] = tenant.weight
        table["ceiling"][code] = OFF_TOKENS if tenant.max_running is None else tenant.max_running
    state.clock[i].ceilings = has_ceiling(terms)


def incoming_records(requests: RequestTable) -> NDArray[Any]:
    """Requests as the scheduler has them before they arrive: records of `REQUEST`, shape (n,); not to be written.

    Args:
        requests: the table.
    """
    return _incoming(requests).records


def put_contents(state: SchedulerState, i: int, contents: Contents) -> None:
    """Put block contents into row `i` of a state, none of them cached.

    Args:
        state: with room for them.
        i: the row.
        contents: of the requests.

    Raises:
        ValueError: they do not fit.
    """
    n = len(contents.first)
    if state.contents.shape[1] < contents.room or state.chains.shape[1] < n:
        raise ValueError(f"{contents.room} block contents do not fit the state's {state.contents.shape[1]}")
    as_bytes(state.chains)[i, :n] = as_bytes(chain_records(contents))
    put_empty_cache(state, i, contents)


def put_empty_cache(state: SchedulerState, i: int, contents: Contents) -> None:
    """Turn the prefix cache of row `i` of a state on, nothing in it, for requests of which those that came are known.

    Args:
        state: with room for the contents.
        i: the row.
        contents: of all requests that may come.
    """
    table = state.contents.view(np.ndarray)[i]
    table["content"][: len(contents.content)] = contents.content
    table["holders"] = ABSENT
    state.clock[i].prefix_cache = 1


def chain_records(contents: Contents) -> NDArray[Any]:
    """What a prefix cache knows of requests before they come, records of `CHAIN`, shape (n,).

    Args:
        contents: of their blocks.
    """
    chains = np.zeros(len(contents.first), CHAIN)
    chains["first"], chains["hashed"] = contents.first, contents.hashed
    return chains


def put_turns(state: SchedulerState, i: int, turns: Turns) -> None:
    """Put conversations into row `i` of a state, whose requests are there: the times of first turns are known.

    Args:
        state: with room for them.
        i: the row.
        turns: of the requests.

    Raises:
        ValueError: the state was made without conversations.
    """
    n = len(turns)
    if state.turns.shape[1] < n:
        raise ValueError(f"the state has no room for the conversations of {n} requests")
    table, first = state.turns.view(np.ndarray)[i], turns.first()
    table["think_ms"][:n] = turns.think_ms
    table["following"][:n] = turns.following()
    table["stage"][:n] = np.where(first, KNOWN, UNKNOWN)
    coming = np.flatnonzero(first)
    # In order of arrival, and so a heap.
    table["coming"][: len(coming)] = coming
    state.requests.view(np.ndarray)[i]["arrival_ms"][:n][~first] = math.nan
    state.clock[i].conversations = 1
    state.clock[i].n_coming = len(coming)


def put_images(state: SchedulerState, i: int, images: Images, tower: VisionTower) -> None:
    """Put images into row `i` of a state, no features of any kept.

    Args:
        state: with room for them.
        i: the row.
        images: of the requests.
        tower: what encodes them.

    Raises:
        ValueError: they do not fit.
    """
    records = image_records(images)
    n = len(records)
    if state.images.shape[1] < max(n, int(records["number"].max(initial=NO_IMAGE)) + 1):
        raise ValueError(f"images of {len(images)} requests do not fit the state's {state.images.shape[1]} rows")
    table = state.images.view(np.ndarray)[i]
    for name in ("number", "end", "kind"):
        table[name][:n] = records[name]
    put_tower(state, i, tower, images.most)


def image_records(images: Images) -> NDArray[Any]:
    """Images as the scheduler has them before they come: records of `IMAGE`, shape (n * m,), request by request.

    Args:
        images: of the requests.
    """
    records = np.zeros(images.side_px.size, IMAGE)
    records["number"] = images.contents().ravel()
    records["end"] = images.ends.ravel()
    records["kind"] = np.where(images.each, np.searchsorted(SIDES_PX, images.side_px), NO_IMAGE).ravel()
    return records


def put_tower(state: SchedulerState, i: int, tower: VisionTower, most: int) -> None:
    """Let row `i` of a state encode images, no features of any kept.

    Args:
        state: with room for the images.
        i: the row.
        tower: what encodes them.
        most: of a request, >= 1.
    """
    state.images.view(np.ndarray)[i]["kept"] = 0
    clock = state.clock[i]
    clock.images = most
    clock.encode_pass_ms, clock.encode_token_ms = tower.pass_ms, tower.token_ms
    clock.encode_together, clock.feature_room = tower.together, tower.feature_cache
    clock.feature_first = clock.feature_last = NOBODY


def hashed_blocks(config: EngineConfig, requests: RequestTable) -> int:
    """Room that a state needs for the block contents of requests.

    Args:
        config: the engine.
        requests: what will arrive.
    """
    contents = contents_of(config, requests)
    return 0 if contents is None else contents.room


def contents_of(config: EngineConfig, requests: RequestTable) -> Contents | None:
    """What an engine's prefix cache knows requests by; None where it has none, or there is nothing to share.

    Args:
        config: the engine.
        requests: what will arrive.
    """
    if not config.prefix_cache or requests.prefixes is None or not len(requests.prefixes.hashes):
        return None
    known = _remembered_contents.get(requests)
    if known is None or known.block_size != config.block_size:
        known = block_contents(requests.prefixes, requests.prompt_tokens + requests.output_tokens, config.block_size)
        _remembered_contents[requests] = known
    return known


def _incoming(requests: RequestTable) -> Incoming:
    known = _remembered.get(requests)
    if known is not None:
        return known
    records = np.zeros(len(requests), REQUEST)
    records["first_ms"] = records["finish_ms"] = math.nan
    records["arrival_ms"] = requests.arrival_ms
    records["prompt"] = requests.prompt_tokens
    records["output"] = requests.output_tokens
    records["estimated_output"] = requests.estimated_output_tokens
    records["ttft_target_ms"] = requests.ttft_target_ms
    records["tpot_target_ms"] = requests.tpot_target_ms
    records["user"] = requests.user_codes
    records["priority"] = requests.priority
    incoming = Incoming(records, typical_target(requests.ttft_target_ms), typical_target(requests.tpot_target_ms))
    if len(requests) <= MOST_REMEMBERED:
        _remembered[requests] = incoming
    return incoming


@lru_cache(64)
def _first_draws(seed: int) -> tuple[int, int]:
    """Where the two generators of a run's draws begin."""
    rng = np.random.default_rng([seed, _ACCEPTANCE_STREAM])
    return int(rng.integers(1, MODULUS_A)), int(rng.integers(1, MODULUS_B))


@lru_cache(64)
def _noise(seed: int, noise: float, size: int) -> NDArray[np.float64]:
    """Factors on step times."""
    drawn = np.random.default_rng([seed, _NOISE_STREAM]).standard_normal(size if noise > 0 else 0)
    return np.exp(noise * drawn) if noise > 0 else np.ones(size)


@lru_cache(1024)
def _numbers(latency: SaturationParameters) -> NDArray[np.float64]:
    """`as_array`, not to be written."""
    return latency.as_array()


@lru_cache(1024)
def _peak_tokens_per_s(latency: SaturationParameters, kv_capacity_tokens: int) -> float:
    return latency.peak_tokens_per_s(kv_capacity_tokens)
