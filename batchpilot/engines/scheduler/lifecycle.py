"""What happens to one request: blocks reserved, planned, first token, preempted, ended. Compiled, unchecked."""

from __future__ import annotations

from batchpilot.engines.scheduler.conversations import break_off, go_on
from batchpilot.engines.scheduler.kv_blocks import blocks_for, release, take
from batchpilot.engines.scheduler.queue import DEADLINE, look_up_due, push, relegate, sooner
from batchpilot.engines.scheduler.refusals import note_decision
from batchpilot.engines.scheduler.state import (
    FAILED,
    LENGTH,
    REFUSED_ARRIVAL,
    REFUSED_GUARD,
    UNFINISHED,
    SchedulerState,
)
from batchpilot.engines.scheduler.tenants import count_out, leave_line
from batchpilot.latency.model.compiled import kernel


@kernel
def count_completion(s: SchedulerState, r: int) -> None:
    """Count a request that finished by length into the window, and whether it met its TTFT and TPOT targets."""
    w = s.window[0]
    request = s.requests[r]
    w.completions += 1
    in_time = request.first_ms - request.arrival_ms <= request.ttft_target_ms
    if request.generated > 1:
        tpot = (request.finish_ms - request.first_ms) / (request.generated - 1)
        s.slots[w.n_tpot % len(s.slots)].tpot_ms = tpot
        w.n_tpot += 1
        in_time = in_time and tpot <= request.tpot_target_ms
    if in_time:
        w.slo_met += 1
        w.slo_met_tokens += request.generated


@kernel
def count_end(s: SchedulerState, r: int, reason: int) -> None:
    """Count a request that has just ended into the window."""
    w = s.window[0]
    if reason == LENGTH:
        count_completion(s, r)
    elif reason == REFUSED_ARRIVAL:
        w.refused_on_arrival += 1
        note_decision(s, r, 1.0)
    elif reason == REFUSED_GUARD:
        w.refused_by_guard += 1
        note_decision(s, r, 1.0)
    elif reason == FAILED:
        w.failed_requests += 1
    else:
        w.cancelled_requests += 1


@kernel
def answered(s: SchedulerState, r: int) -> None:
    """A request has its first token, or will have none: its prompt counts no longer against `max_queued_tokens`."""
    if s.requests[r].unanswered:
        s.requests[r].unanswered = 0
        s.clock[0].unanswered_tokens -= s.requests[r].prompt - s.requests[r].cached


@kernel
def give_up_place(s: SchedulerState, r: int) -> None:
    """A request holds no KV blocks any more and, if it held some, runs no longer."""
    if s.clock[0].ceilings and s.requests[r].blocks > 0:
        count_out(s, r)
    release(s, r)


@kernel
def end_request(s: SchedulerState, r: int, reason: int) -> None:
    """A request ends: its reason and time are written once, its KV blocks are freed, its conversation goes on."""
    c = s.clock[0]
    s.requests[r].reason = reason
    s.requests[r].finish_ms = c.now_ms
    give_up_place(s, r)
    s.slots[c.n_ended % len(s.slots)].ended = r
    c.n_ended += 1
    answered(s, r)
    count_end(s, r, reason)
    if c.conversations:
        if reason == LENGTH:
            go_on(s, r)
        else:
            break_off(s, r, reason)


@kernel
def turn_away(s: SchedulerState, r: int) -> None:
    """A waiting request comes too late: it is refused, or relegated under the deadline discipline."""
    if s.clock[0].discipline == DEADLINE:
        relegate(s, r)
    else:
        leave_line(s, r)
        end_request(s, r, REFUSED_GUARD)


@kernel
def refuse_hopeless(s: SchedulerState, until_ms: float) -> None:
    """Refuse whoever waits and becomes hopeless by a time, the next at which it could be looked at.

    Who has become so while a step ran was told then: a server keeps the time beside its engine.
    """
    c = s.clock[0]
    while c.n_due > 0 and s.requests[s.lines[0].due].latest_ms <= until_ms:
        r = s.lines[0].due
        if (c.prefix_cache or c.images) and look_up_due(s, r) > until_ms:
            continue
        turn_away(s, r)
        if s.requests[r].reason == REFUSED_GUARD:
            s.requests[r].finish_ms = max(s.requests[r].arrival_ms, min(c.now_ms, s.requests[r].latest_ms))


@kernel
def first_token(s: SchedulerState, r: int) -> None:
    """Note the time of a request's first token."""
    w = s.window[0]
    answered(s, r)
    s.requests[r].first_ms = s.clock[0].now_ms
    s.slots[w.n_ttft % len(s.slots)].ttft_ms = s.requests[r].first_ms - s.requests[r].arrival_ms
    w.n_ttft += 1


@kernel
def preempt(s: SchedulerState, position: int) -> None:
    """Put the running request at `position` back into the queue, to be recomputed; its place becomes a hole (-1)."""
    c = s.clock[0]
    r = s.slots[position].running
    s.slots[position].running = -1
    give_up_place(s, r)
    own = s.requests[r].computed - s.requests[r].cached
    c.useful_tokens -= own
    s.window[0].preemptions += 1
    s.window[0].recomputed_tokens += max(own, 0)
    s.requests[r].computed = 0
    push(s, r)


@kernel
def close_holes(s: SchedulerState) -> None:
    """Keep the running requests that have neither been preempted nor ended, in order."""
    c = s.clock[0]
    kept = 0
    for k in range(c.n_running):
        r = s.slots[k].running
        if r >= 0 and s.requests[r].reason == UNFINISHED:
            s.slots[kept].running = r
            kept += 1
    c.n_running = kept


@kernel
def least_urgent(s: SchedulerState) -> int:
    """Position of the running request with the largest key that is not in the step being planned, -1 for none."""
    c = s.clock[0]
    worst = -1
    for k in range(c.n_running):
        r = s.slots[k].running
        if r >= 0 and s.requests[r].in_step != c.step and (worst < 0 or sooner(s, s.slots[worst].running, r)):
            worst = k
    return worst


@kernel
def reserve(s: SchedulerState, r: int, tokens: int) -> bool:
    """Give a running request KV blocks for `tokens` more, preempting less urgent ones; False if it had to go itself.

    A request never displaces one already planned in this step or more urgent than itself, so the most urgent one
    always proceeds and every step makes progress.
    """
    c = s.clock[0]
    missing = max(blocks_for(s.requests[r].computed + tokens, c.block_size) - s.requests[r].blocks, 0)
    while missing > c.free_blocks:
        c.kv_short = 1
        position = least_urgent(s)
        itself = s.slots[position].running == r
        preempt(s, position)
        if itself:
            return False
    s.requests[r].blocks += missing
    take(s, missing)
    return True


@kernel
def add_to_plan(s: SchedulerState, r: int, tokens: int) -> None:
    """Give a request `tokens` in the step being planned; its KV blocks are reserved already."""
    c = s.clock[0]
    s.slots[c.n_plan].planned = r
    s.slots[c.n_plan].tokens = tokens
    s.requests[r].in_step = c.step
    c.n_plan += 1
    c.plan_total_tokens += tokens
    c.plan_context += s.requests[r].computed
