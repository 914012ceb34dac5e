"""Requests into a scheduler's arrays, quickly: the same ones are served again and again, by every strategy. In ms."""

from __future__ import annotations

import math
from functools import lru_cache
from typing import Any, NamedTuple
from weakref import WeakKeyDictionary

import numpy as np
from numpy.typing import NDArray

from batchpilot.core.limits import DISCIPLINES
from batchpilot.core.slo import typical_target
from batchpilot.engines.scheduler.state import (
    BATCHING_MODES,
    OFF_TOKENS,
    PREFILL_MODES,
    REQUEST,
    SchedulerState,
    as_bytes,
    row,
)
from batchpilot.engines.scheduler.windows import open_window
from batchpilot.engines.simulated.config import EngineConfig
from batchpilot.latency.model.compiled import plain
from batchpilot.workloads.table import RequestTable

MOST_REMEMBERED = 50_000
"""Requests of a table above which its records are made anew each time: they are larger than the table."""

NOISE_TABLE = 8192
"""Length of the table of noise factors, which a run goes through again and again."""

_NOISE_STREAM = 1


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


def load(state: SchedulerState, i: int, config: EngineConfig, requests: RequestTable) -> None:
    """Put an engine and its requests into row `i` of a state, at time 0 with nothing running.

    Args:
        state: allocated state with room for the requests, the users, the drift rows and the noise table.
        i: the row.
        config: the engine.
        requests: what will arrive.

    Raises:
        ValueError: the requests, users or drift rows do not fit.
    """
    n = len(requests)
    users = requests.users
    room = (state.requests.shape[1], state.user_finish.shape[1], state.parameters.shape[1] - 2)
    needed = (n, users, len(config.drift))
    if any(need > have for need, have in zip(needed, room, strict=True)):
        raise ValueError(f"requests, users and drift rows {needed} do not fit the state's {room}")
    incoming = _incoming(requests)
    as_bytes(state.requests)[i, :n] = as_bytes(incoming.records)
    state.noise[i] = _noise(config.seed, config.noise, state.noise.shape[1])
    state.user_finish[i] = 0.0
    believed = config.believed_latency()
    state.parameters[i] = math.inf
    state.parameters[i, 0, 1:] = believed.as_array()
    for k, (start, parameters) in enumerate(((-math.inf, config.latency), *config.drift), 1):
        state.parameters[i, k] = (start, *parameters.as_array())

    state.clock[i] = np.zeros(1, state.clock.dtype)[0]
    clock = state.clock[i]
    clock.n_requests = n
    clock.concurrency = requests.concurrency
    clock.block_size = config.block_size
    clock.total_blocks = clock.free_blocks = config.capacity_tokens // config.block_size
    clock.max_model_len = config.max_model_len or OFF_TOKENS
    clock.mode = BATCHING_MODES[config.mode]
    clock.prefill = PREFILL_MODES[config.prefill]
    clock.discipline = DISCIPLINES[config.discipline]
    clock.wake_ms = clock.ttft_guard = math.inf
    clock.parameter_row = 1
    clock.peak_tokens_per_s = believed.peak_tokens_per_s(config.capacity_tokens)
    clock.ttft_target_ms = incoming.ttft_target_ms
    clock.tpot_target_ms = incoming.tpot_target_ms
    if config.memory is not None:
        clock.fixed_mb = config.memory.fixed_mb
        clock.kv_mb_per_token = config.memory.kv_mb_per_token
        clock.activation_mb_per_token = config.memory.activation_mb_per_token
        clock.total_mb = config.memory.total_mb
    open_window(plain(row)(state, i))


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
def _noise(seed: int, noise: float, size: int) -> NDArray[np.float64]:
    """Factors on step times."""
    drawn = np.random.default_rng([seed, _NOISE_STREAM]).standard_normal(size if noise > 0 else 0)
    return np.exp(noise * drawn) if noise > 0 else np.ones(size)
