"""Rollouts of the twin, compiled: the present is taken over, run on, and told what it is worth. Times in ms."""

from __future__ import annotations

import math

from batchpilot.engines.scheduler.calendars import close_calendars
from batchpilot.engines.scheduler.kv_blocks import blocks_for
from batchpilot.engines.scheduler.queue import key_on_arrival, push
from batchpilot.engines.scheduler.state import LENGTH, UNFINISHED, SchedulerState, row
from batchpilot.engines.scheduler.windows import open_window
from batchpilot.engines.simulated.kernel import run_steps
from batchpilot.latency.model.compiled import allocating, kernel

_PARTS = 32
"""Of a rollout, between which its work is counted."""

STEP_WORK = 16
"""What a step costs, in requests of a step."""

MOST_ROLLOUT_WORK = 2_000_000
"""Of one rollout, requests times steps; what would take more ends early and is worth what it did so far."""


@kernel
def take_over(s: SchedulerState, running: int, waiting: int) -> None:
    """Let the first requests of a row run and the next ones wait; the running ones hold the KV blocks they need."""
    c = s.clock[0]
    c.next_arrival = running + waiting
    for r in range(running + waiting):
        if s.requests[r].generated == 0:
            s.requests[r].unanswered = 1
            c.unanswered_tokens += s.requests[r].prompt - s.requests[r].cached
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
def begin(s: SchedulerState, running, waiting) -> None:  # type: ignore[no-untyped-def]
    """Take the requests of the first rows over, of which so many run and wait, and open their windows."""
    for i in range(len(running)):
        one = row(s, i)
        take_over(one, running[i], waiting[i])
        open_window(one)


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
