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
from numpy.typing import NDArray

from batchpilot.core.limit_arrays import LimitArrays
from batchpilot.engines.scheduler.decoding import close_calendars
from batchpilot.engines.scheduler.lifecycle import blocks_for
from batchpilot.engines.scheduler.queue import key_on_arrival, push
from batchpilot.engines.scheduler.state import LENGTH, OFF_TOKENS, UNFINISHED, SchedulerState, allocate, row
from batchpilot.engines.scheduler.windows import open_window
from batchpilot.engines.simulated.kernel import run_steps
from batchpilot.latency.model.compiled import allocating, kernel, plain
from batchpilot.latency.model.saturation import SaturationParameters

_MOST_KV_TOKENS = 2**40

_PARTS = 32
"""Of a rollout, between which its work is counted."""

STEP_WORK = 16
"""What a step costs, in requests of a step."""

MOST_ROLLOUT_WORK = 2_000_000
"""Of one rollout, requests times steps; what would take more ends early and is worth what it did so far."""

_COPIED = ("clock", "window", "requests", "slots", "parameters", "user_finish")
_PER_REQUEST = ("requests", "slots")
"""Of these, no more than the futures have: there is room for more."""


@dataclass(frozen=True, slots=True, eq=False)
class Future:
    """One guess of what comes.

    Attributes:
        requests: records of `REQUEST`: those running in order of admission, those waiting, those to come by arrival;
            every one with an output length.
        running: how many run.
        waiting: how many wait.
    """

    requests: NDArray[Any]
    running: int
    waiting: int


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


@kernel
def take_over(s: SchedulerState, running: int, waiting: int) -> None:
    """Let the first requests of a row run and the next ones wait; the running ones hold the KV blocks they need."""
    c = s.clock[0]
    c.next_arrival = running + waiting
    for r in range(running + waiting):
        if s.requests[r].generated == 0:
            s.requests[r].unanswered = 1
            c.unanswered_tokens += s.requests[r].prompt
    for r in range(running):
        known = max(s.requests[r].computed, s.requests[r].prompt + s.requests[r].generated - 1)
        s.requests[r].blocks = min(blocks_for(known, c.block_size), c.free_blocks)
        s.requests[r].admitted = 1
        s.requests[r].key = key_on_arrival(s, r)
        s.slots[r].running = r
        c.free_blocks -= s.requests[r].blocks
    c.n_running = running
    for r in range(running, running + waiting):
        s.requests[r].key = key_on_arrival(s, r)
        push(s, r)


@kernel
def credited_tokens(s: SchedulerState, counted_until_ms: float, prefill_share: float) -> float:
    """Output tokens of the requests that arrived by a time and keep their promise as far as the rollout went.

    A request that is not done counts for the prefill share of its output and for the tokens it has generated.
    """
    c = s.clock[0]
    tokens = 0.0
    for r in range(c.next_arrival):
        request = s.requests[r]
        if request.generated == 0 or request.arrival_ms > counted_until_ms:
            continue
        if request.reason != LENGTH and request.reason != UNFINISHED:
            continue
        if request.first_ms - request.arrival_ms > request.ttft_target_ms:
            continue
        end = request.finish_ms if request.reason == LENGTH else c.now_ms
        if request.generated > 1 and end - request.first_ms > request.tpot_target_ms * (request.generated - 1):
            continue
        tokens += prefill_share * request.output + (1.0 - prefill_share) * request.generated
    return tokens


@kernel
def doomed_tokens(s: SchedulerState) -> float:
    """Prompt tokens still to be computed for requests that have missed their TTFT target already.

    A guard refuses them when their turn comes, so under one only those that were let in count.
    """
    c = s.clock[0]
    guarded = s.limits[0].ttft_guard < math.inf
    tokens = 0.0
    for r in range(c.next_arrival):
        request = s.requests[r]
        late = c.now_ms > request.arrival_ms + request.ttft_target_ms
        free = guarded and request.admitted == 0
        if request.reason == UNFINISHED and request.generated == 0 and late and not free:
            tokens += request.prompt - request.computed
    return tokens


@allocating
def roll_out(s: SchedulerState, counted_until_ms: float, until_ms: float, doomed_price, prefill_share, values) -> None:  # type: ignore[no-untyped-def]
    """Run the first rows of a state to a time, or to the most work, and write what came of each, shape (rows,)."""
    for i in range(len(values)):
        one = row(s, i)
        now_ms = one.clock[0].now_ms
        for part in range(1, _PARTS + 1):
            run_steps(one, until_ms if part == _PARTS else now_ms + part * (until_ms - now_ms) / _PARTS)
            if STEP_WORK * one.window[0].steps + one.window[0].batch_sum > MOST_ROLLOUT_WORK:
                break
        if one.clock[0].decoding:
            close_calendars(one)
        values[i] = credited_tokens(one, counted_until_ms, prefill_share) - doomed_price * doomed_tokens(one)


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
        self._starts = self._tries = allocate(0, 1)

    def values(
        self,
        candidates: LimitArrays,
        futures: Sequence[Future],
        latency: SaturationParameters,
        kv_capacity_tokens: int,
        horizon: Horizon,
    ) -> NDArray[np.float64]:
        """What each candidate is worth in each future.

        Args:
            candidates: limits, arrays of shape (c,).
            futures: f guesses; every candidate meets the same ones.
            latency: estimated step latency.
            kv_capacity_tokens: KV tokens that fit; 0 for no bound.
            horizon: how far to look.

        Returns:
            Output tokens of the counted requests that keep their promise, less the price of doomed ones, shape (c, f).
        """
        c, f = len(candidates.batch_size), len(futures)
        starts = self._prepare(futures, latency, kv_capacity_tokens, horizon.now_ms, c * f)
        tries = _first(self._tries, c * f)
        longest = max(len(future.requests) for future in futures)
        for name in _COPIED:
            start = getattr(starts, name)
            copies = getattr(tries, name).reshape(c, *start.shape)
            some = (..., slice(longest)) if name in _PER_REQUEST else ...
            np.copyto(copies[some], start[some])
        _write(candidates, tries.limits.reshape(c, f))
        values = np.zeros(c * f)
        counted_until, until = horizon.now_ms + horizon.counted_ms, horizon.now_ms + horizon.length_ms
        roll_out(tries, counted_until, until, horizon.doomed_price, horizon.prefill_share, values)
        self.work += int((tries.window["batch_sum"] + STEP_WORK * tries.window["steps"]).sum())
        return values.reshape(c, f)

    def _prepare(
        self,
        futures: Sequence[Future],
        latency: SaturationParameters,
        kv_capacity_tokens: int,
        now_ms: float,
        tries: int,
    ) -> SchedulerState:
        """One row a future, standing at the present moment; makes room for that and for the tries."""
        longest = max(len(future.requests) for future in futures)
        if longest > self._starts.requests.shape[1]:
            self._starts = self._tries = allocate(0, 2 * longest)
        if len(futures) > len(self._starts.clock):
            self._starts = allocate(len(futures), self._starts.requests.shape[1])
        if tries > len(self._tries.clock):
            self._tries = allocate(tries, self._starts.requests.shape[1])
        state = _first(self._starts, len(futures))
        state.clock[:] = np.zeros(1, state.clock.dtype)[0]
        state.clock["now_ms"] = now_ms
        state.clock["block_size"] = self._block_size
        capacity = min(kv_capacity_tokens or _MOST_KV_TOKENS, _MOST_KV_TOKENS)
        state.clock["total_blocks"] = state.clock["free_blocks"] = capacity // self._block_size
        state.clock["max_model_len"] = OFF_TOKENS
        state.clock["wake_ms"] = state.clock["ttft_guard"] = math.inf
        state.clock["parameter_row"] = 1
        state.parameters[:, 1, 0] = -math.inf
        state.parameters[:, :, 1:] = latency.as_array()
        state.user_finish[:] = 0.0
        for i, future in enumerate(futures):
            n = len(future.requests)
            state.clock[i].n_requests = n
            state.requests[i, :n] = future.requests
            one = plain(row)(state, i)
            take_over(one, future.running, future.waiting)
            open_window(one)
        return state


def _first(state: SchedulerState, rows: int) -> SchedulerState:
    """Views of the first rows of a state."""
    return SchedulerState(**{name: array[:rows] for name, array in state._asdict().items()})


def _write(candidates: LimitArrays, limits: NDArray[Any]) -> None:
    """Candidates as the kernels read them, one row of `limits` each."""
    for name in ("batch_size", "token_budget", "max_queued_tokens"):
        limits[name] = np.minimum(getattr(candidates, name), float(OFF_TOKENS))[:, None]
    for name in ("max_wait_ms", "step_target_ms", "ttft_guard"):
        limits[name] = getattr(candidates, name)[:, None]
    limits["max_wait_ms"] = np.where(np.isfinite(limits["max_wait_ms"]), limits["max_wait_ms"], 0.0)
    limits["discipline"] = np.maximum(candidates.discipline, 0)[:, None]
