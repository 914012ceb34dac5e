"""The digital twin: what becomes of the requests in flight, and of those to come, under other limits? Times in ms.

A copy of the scheduler as far as a server knows it, run by the same kernels on an estimated latency. The output lengths
of requests, and what arrives, are guesses; each `Future` is one guess.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from numba import get_num_threads
from numpy.typing import NDArray

from batchpilot.core.image_sizes import SIDES_PX, image_tokens
from batchpilot.core.limit_arrays import LimitArrays
from batchpilot.core.speculation import Speculation
from batchpilot.engines.scheduler.refusals import ROW as REFUSALS
from batchpilot.engines.scheduler.state import (
    IMAGE_ROWS,
    NO_IMAGE,
    NOBODY,
    OFF_TOKENS,
    SchedulerState,
    allocate,
    as_bytes,
)
from batchpilot.engines.simulated.loading import put_speculation
from batchpilot.engines.simulated.rollout import STEP_WORK, begin, roll_out
from batchpilot.engines.simulated.threads import in_threads
from batchpilot.latency.model.saturation import SaturationParameters

THREADS = min(2, get_num_threads())
"""That try candidates out."""

_MOST_KV_TOKENS = 2**40

_COPIED = ("clock", "window", "requests", "slots", "lines", "parameters", "users")
_PER_REQUEST = ("requests", "slots", "lines")
"""Of these, no more than the futures have: there is room for more."""


@dataclass(frozen=True, slots=True, eq=False)
class Future:
    """One guess of what comes.

    Attributes:
        requests: records of `REQUEST`: those running in order of admission, those waiting, those to come by arrival;
            every one with an output length.
        running: how many run.
        waiting: how many wait.
        to_encode: which of the requests have an image that is encoded when they are let in, shape (n,); None for none.
    """

    requests: NDArray[Any]
    running: int
    waiting: int
    to_encode: NDArray[np.bool_] | None = None


@dataclass(frozen=True, slots=True)
class Horizon:
    """How far a rollout looks.

    Attributes:
        now_ms: where it starts.
        counted_ms: requests that arrive within this time are counted, > 0.
        length_ms: the rollout goes on for this time, under arrivals that are no longer counted, so that the counted
            requests are seen through; above `counted_ms`.
        doomed_price: output tokens that each prompt token costs which is still to be computed for a request that has
            missed its TTFT already: it will take the place of one that could be served.
        prefill_share: of a request's output, what counts once its prompt is computed; the rest counts token by token.
            With the share of its cost that its prompt has, work in progress counts for what was spent on it: more would
            pay for letting in what the next window has to carry, less for not letting in.
    """

    now_ms: float
    counted_ms: float
    length_ms: float
    doomed_price: float = 0.0
    prefill_share: float = 1.0


class Twin:
    """Tries limits out on a copy of the scheduler.

    Args:
        block_size: tokens in a KV block.

    Attributes:
        work: requests times steps, `STEP_WORK` more a step, that all rollouts took so far.
    """

    def __init__(self, block_size: int = 16) -> None:
        self.work = 0
        self._block_size = block_size
        self._starts = self._tries = _allocate(0, 1)
        self._futures = self._longest = 0
        self._images = self._image_rooms = False
        self._drafted = 0
        self._horizon = Horizon(0.0, 1.0, 1.0)

    def look(
        self,
        futures: Sequence[Future],
        latency: SaturationParameters,
        kv_capacity_tokens: int,
        horizon: Horizon,
        speculation: Speculation | None = None,
        image_ms: float = 0.0,
    ) -> None:
        """Stand at the present moment: where every rollout starts until this is called again.

        Args:
            futures: guesses; every candidate meets the same ones.
            latency: estimated step latency.
            kv_capacity_tokens: KV tokens that fit; 0 for no bound.
            horizon: how far to look.
            speculation: how drafts fare; None for the default. Every candidate meets the same draws.
            image_ms: time that encoding one image takes.
        """
        self._horizon, self._futures = horizon, len(futures)
        self._longest = max(len(future.requests) for future in futures)
        self._images = any(future.to_encode is not None for future in futures)
        room = self._starts.requests.shape[1]
        if self._longest > room or (self._images and not self._image_rooms):
            room = max(room, 2 * self._longest)
            self._image_rooms |= self._images
            self._starts = self._tries = _allocate(0, room, self._image_rooms)
        if len(futures) > len(self._starts.clock):
            self._starts = _allocate(len(futures), room, self._image_rooms)
        state = _rows(self._starts, 0, len(futures))
        state.clock[:] = np.zeros(1, state.clock.dtype)[0]
        state.clock["now_ms"] = horizon.now_ms
        state.clock["block_size"] = self._block_size
        capacity = min(kv_capacity_tokens or _MOST_KV_TOKENS, _MOST_KV_TOKENS)
        state.clock["total_blocks"] = state.clock["free_blocks"] = capacity // self._block_size
        state.clock["max_model_len"] = OFF_TOKENS
        state.clock["wake_ms"] = state.clock["ttft_guard"] = math.inf
        state.clock["parameter_row"] = 1
        fares = speculation or Speculation()
        put_speculation(state, slice(None), fares, seed=0)
        self._drafted = fares.drafted
        state.clock["n_requests"] = [len(future.requests) for future in futures]
        state.parameters[:, 1, 0] = -math.inf
        state.parameters[:, :, 1:] = latency.as_array()
        state.users["finish"] = 0.0
        for i, future in enumerate(futures):
            as_bytes(state.requests)[i, : len(future.requests)] = as_bytes(future.requests)
        if self._images:
            _put_images(state, futures, image_ms)
        begin(
            state,
            np.array([future.running for future in futures]),
            np.array([future.waiting for future in futures]),
        )

    def values(self, candidates: LimitArrays, first: int = 0, end: int | None = None) -> NDArray[np.float64]:
        """What each candidate is worth in futures looked at.

        Args:
            candidates: limits, arrays of shape (c,).
            first: the first future to try.
            end: the one after the last, None for all.

        Returns:
            Output tokens of the counted requests that keep their promise, less the price of doomed ones, shape
            (c, futures tried).
        """
        starts = _rows(self._starts, first, self._futures if end is None else end)
        c, f = len(candidates.batch_size), len(starts.clock)
        if c * f > len(self._tries.clock):
            self._tries = _allocate(c * f, self._starts.requests.shape[1], self._image_rooms)
        tries = _rows(self._tries, 0, c * f)
        for name in _COPIED:
            start = as_bytes(getattr(starts, name))
            copies = as_bytes(getattr(tries, name)).reshape(c, *start.shape)
            some = (..., slice(self._longest)) if name in _PER_REQUEST else ...
            np.copyto(copies[some], start[some])
        if self._images:
            rows = max(self._longest, IMAGE_ROWS)
            tries.images.reshape(c, f, -1)[..., :rows] = starts.images[:, :rows]
        if np.isfinite(candidates.refusal_bound).any():
            tries.targets[:, REFUSALS] = 0.0  # rollouts before were of other moments
        _write(candidates, tries.limits.reshape(c, f), self._drafted)
        values = np.zeros(c * f)
        horizon = self._horizon
        counted_until, until = horizon.now_ms + horizon.counted_ms, horizon.now_ms + horizon.length_ms
        prices = horizon.doomed_price, horizon.prefill_share

        def run(first: int, end: int) -> None:
            roll_out(_rows(tries, first, end), counted_until, until, *prices, values[first:end])

        in_threads(run, c * f, min(c * f, THREADS))
        self.work += int((tries.window["batch_sum"] + STEP_WORK * tries.window["steps"]).sum())
        return values.reshape(c, f)


def _allocate(simulations: int, requests: int, images: bool = False) -> SchedulerState:
    """A state of plain arrays: compiled code needs no attributes, and views of `recarray` cost ten times as much."""
    state = allocate(simulations, requests, images=requests if images else 0)
    return SchedulerState._make(array.view(np.ndarray) for array in state)


def _put_images(state: SchedulerState, futures: Sequence[Future], image_ms: float) -> None:
    """Images that differ, all of the smallest size, of which no features are kept: each takes the same time."""
    state.clock["images"], state.clock["encode_together"] = 1, 1
    state.clock["encode_token_ms"] = image_ms / image_tokens(SIDES_PX[0])
    state.clock["feature_first"] = state.clock["feature_last"] = NOBODY
    state.images[:] = np.zeros((), state.images.dtype)
    state.images["kind"] = NO_IMAGE
    # No part of a prompt is long enough for its image to be found in a cache.
    state.images["end"] = np.iinfo(np.int32).max
    for i, future in enumerate(futures):
        if future.to_encode is not None:
            state.images["kind"][i, : len(future.requests)] = np.where(future.to_encode, 0, NO_IMAGE)


def _rows(state: SchedulerState, first: int, end: int) -> SchedulerState:
    """Views of some rows of a state."""
    return SchedulerState._make(array[first:end] for array in state)


def _write(candidates: LimitArrays, limits: NDArray[Any], drafted: int) -> None:
    """Candidates as the kernels read them, one row of `limits` each; the server drafts where they ask for nothing."""
    for name in ("batch_size", "token_budget", "max_queued_tokens", "max_padding_tokens"):
        limits[name] = np.minimum(getattr(candidates, name), float(OFF_TOKENS))[:, None]
    asked = candidates.speculative_tokens
    limits["speculative_tokens"] = np.where(asked > 0, asked, drafted)[:, None]
    for name in ("step_target_ms", "ttft_guard", "max_padding_share", "refusal_bound"):
        limits[name] = getattr(candidates, name)[:, None]
    for name in ("max_wait_ms", "delay_factor"):
        waited = getattr(candidates, name)[:, None]
        limits[name] = np.where(np.isfinite(waited), waited, 0.0)
    limits["discipline"] = np.maximum(candidates.discipline, 0)[:, None]
