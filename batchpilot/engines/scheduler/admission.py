"""Who is let in, when and with how many tokens: arrivals, the step target, the TTFT guard. Compiled, unchecked."""

from __future__ import annotations

import math

from batchpilot.engines.scheduler.lifecycle import (
    add_to_plan,
    blocks_for,
    close_holes,
    end_request,
    least_urgent,
    preempt,
)
from batchpilot.engines.scheduler.queue import PRIORITY, key_on_arrival, push, take_out
from batchpilot.engines.scheduler.state import (
    CANCELLED,
    FAILED,
    REFUSED_ARRIVAL,
    REFUSED_GUARD,
    SELECTIVE,
    WHOLE,
    SchedulerState,
)
from batchpilot.latency.model.compiled import inlined, kernel
from batchpilot.latency.model.saturation import is_reachable, largest_tokens, step_ms

LOW_PRIORITY_QUEUE_SHARE = 2
"""Under the priority discipline low-priority requests may fill one part in this many of `max_queued_tokens`."""

_HIGH, _LOW = 0, 2


@inlined
def next_arrival_ms(s: SchedulerState) -> float:
    """When the next request arrives; infinity when none is left or every client of a closed loop is waiting."""
    c = s.clock[0]
    if c.next_arrival >= c.n_requests:
        return math.inf
    if c.concurrency > 0:
        busy = c.next_arrival - c.n_ended + c.cancelled_ahead
        return c.now_ms if busy < c.concurrency else math.inf
    return s.requests[c.next_arrival].arrival_ms


@kernel
def count_arrival(s: SchedulerState, r: int) -> None:
    """Count a request that arrives into the window."""
    w = s.window[0]
    k = w.arrivals % s.targets.shape[1]
    s.targets[0, k] = s.requests[r].ttft_target_ms
    s.targets[1, k] = s.requests[r].tpot_target_ms
    w.arrivals += 1
    w.arrived_prompt_tokens += s.requests[r].prompt


@kernel
def admit(s: SchedulerState, r: int) -> None:
    """Take a request that arrives now into the queue, or refuse it."""
    c = s.clock[0]
    count_arrival(s, r)
    length = s.requests[r].prompt + s.requests[r].output
    queued = c.unanswered_tokens
    if c.discipline == PRIORITY and s.requests[r].priority == _LOW:
        queued *= LOW_PRIORITY_QUEUE_SHARE
    if length > c.max_model_len or blocks_for(length - 1, c.block_size) > c.total_blocks:
        end_request(s, r, FAILED)
    elif queued >= s.limits[0].max_queued_tokens:
        end_request(s, r, REFUSED_ARRIVAL)
    else:
        s.requests[r].unanswered = 1
        c.unanswered_tokens += s.requests[r].prompt
        s.requests[r].key = key_on_arrival(s, r)
        push(s, r)


@kernel
def skip_cancelled(s: SchedulerState) -> None:
    """Pass over requests that were cancelled before their turn to arrive, so that the next arrival is a real one."""
    c = s.clock[0]
    while c.next_arrival < c.n_requests and s.requests[c.next_arrival].reason == CANCELLED:
        c.next_arrival += 1
        c.cancelled_ahead -= 1


@inlined
def admit_arrivals(s: SchedulerState) -> None:
    """Admit every request that has arrived by now."""
    c = s.clock[0]
    while next_arrival_ms(s) <= c.now_ms:
        r = c.next_arrival
        c.next_arrival += 1
        if c.concurrency > 0:
            s.requests[r].arrival_ms = c.now_ms
        admit(s, r)
        skip_cancelled(s)


@kernel
def step_tokens(s: SchedulerState, others: int, tokens: int, context: int, joining_context: int) -> int:
    """Most tokens of a step that one more request joins: the token budget, cut by `step_target_ms` at that batch size.

    The target cannot cut a step that is too long because its batch is small, not large: then the request may join as
    long as the step gets no longer, and alone it may take the budget, since a small chunk would only prolong it. A
    target that no batch size meets is no guide and is ignored. Whole and selective prefill do not cut prompts, so it
    does not apply to them.

    Args:
        s: the state.
        others: requests that are in the step already.
        tokens: tokens of theirs.
        context: context tokens that they read.
        joining_context: context tokens that the request reads that joins.
    """
    c = s.clock[0]
    limits = s.limits[0]
    budget = limits.token_budget
    target = limits.step_target_ms
    if target == math.inf or c.prefill in (WHOLE, SELECTIVE):
        return budget
    estimate = s.parameters[0, 1:]
    requests = float(others + 1)
    read = float(context + joining_context)
    # Beyond 2**30 tokens the estimate has long saturated; the cap keeps the bisection short when the budget is off.
    cap = min(budget, 2**30)
    fitting = largest_tokens(estimate, requests, read, target, cap)
    if fitting > tokens:
        return fitting
    if others == 0 or not is_reachable(estimate, target, limits.batch_size):
        return budget
    so_far = step_ms(estimate, float(others), float(tokens), float(context))
    if so_far > target and step_ms(estimate, requests, float(tokens + 1), read) <= so_far:
        return largest_tokens(estimate, requests, read, so_far, cap)
    return fitting


@kernel
def chunk(s: SchedulerState, r: int) -> int:
    """Tokens of its prompt that a request may compute in the step being planned, 0 for none."""
    c = s.clock[0]
    need = s.requests[r].prompt + s.requests[r].generated - s.requests[r].computed
    most = step_tokens(s, c.n_plan, c.plan_total_tokens, c.plan_context, s.requests[r].computed)
    room = most - c.plan_total_tokens
    if need <= room:
        return need
    if c.prefill == WHOLE and need <= s.limits[0].token_budget:
        return 0
    return max(room, 0)


@kernel
def predicted_prefill_ms(s: SchedulerState, r: int, first_chunk: int) -> float:
    """Estimated time until the first token if the request is admitted now with `first_chunk` tokens.

    The rest of its prompt follows in full steps beside the requests that run now.
    """
    c = s.clock[0]
    requests = c.n_plan + 1
    context = c.plan_context
    first = step_ms(s.parameters[0, 1:], float(requests), float(c.plan_total_tokens + first_chunk), float(context))
    rest = s.requests[r].prompt - first_chunk
    if rest <= 0:
        return first
    full = step_tokens(s, c.n_plan, c.n_plan, context, first_chunk)
    room = max(full - c.n_plan, 1)
    whole_steps = rest // room
    last = rest - whole_steps * room
    time = first + whole_steps * step_ms(s.parameters[0, 1:], float(requests), float(max(full, 1)), float(context))
    if last > 0:
        time += step_ms(s.parameters[0, 1:], float(requests), float(c.n_plan + last), float(context))
    return time


@kernel
def guard_refuses(s: SchedulerState, r: int, prefill_ms: float) -> bool:
    """Whether the TTFT guard refuses a request whose turn has come; one that was admitted before is never refused."""
    guard = s.limits[0].ttft_guard
    waited = s.clock[0].now_ms - s.requests[r].arrival_ms
    return (
        guard < math.inf and s.requests[r].admitted == 0 and waited + prefill_ms > guard * s.requests[r].ttft_target_ms
    )


@kernel
def admit_next(s: SchedulerState, tokens: int) -> bool:
    """Move the next waiting request into the step with `tokens`, or refuse it by the guard; False if KV is short.

    It takes the KV blocks of all it is known to need, its prompt and what it generated before a preemption: letting it
    in on its first chunk would have half-computed prompts push one another out again and again.
    """
    c = s.clock[0]
    r = s.slots[0].waiting
    if guard_refuses(s, r, predicted_prefill_ms(s, r, tokens)):
        take_out(s, r)
        end_request(s, r, REFUSED_GUARD)
        return True
    missing = blocks_for(s.requests[r].prompt + s.requests[r].generated, c.block_size)
    if missing > c.free_blocks:
        return False
    take_out(s, r)
    s.requests[r].blocks = missing
    c.free_blocks -= missing
    s.requests[r].admitted = 1
    c.virtual_time = max(c.virtual_time, s.requests[r].key)
    s.slots[c.n_running].running = r
    c.n_running += 1
    add_to_plan(s, r, tokens)
    return True


@kernel
def make_way(s: SchedulerState) -> None:
    """Under the priority discipline, preempt less urgent classes for a waiting high-priority request."""
    c = s.clock[0]
    while c.n_queue > 0 and s.requests[s.slots[0].waiting].priority == _HIGH:
        waiting = s.requests[s.slots[0].waiting]
        needed = blocks_for(waiting.prompt + waiting.generated, c.block_size)
        if c.n_running < s.limits[0].batch_size and needed <= c.free_blocks:
            return
        position = least_urgent(s)
        if position < 0 or s.requests[s.slots[position].running].priority == _HIGH:
            return
        preempt(s, position)
        close_holes(s)
