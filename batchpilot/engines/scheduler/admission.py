"""Who is let in, when and with how many tokens: arrivals, the step target, the TTFT guard. Compiled, unchecked."""

from __future__ import annotations

import math

from batchpilot.engines.scheduler.conversations import take_coming
from batchpilot.engines.scheduler.images import encode_ms, look_at
from batchpilot.engines.scheduler.kv_blocks import blocks_for, blocks_needed, claim
from batchpilot.engines.scheduler.lifecycle import (
    add_to_plan,
    close_holes,
    end_request,
    least_urgent,
    preempt,
    turn_away,
)
from batchpilot.engines.scheduler.prefix_cache import look_up
from batchpilot.engines.scheduler.queue import PRIORITY, VISION, is_relegated, key_on_arrival, push
from batchpilot.engines.scheduler.refusals import note_decision, note_prompt
from batchpilot.engines.scheduler.speculation import draft_ms
from batchpilot.engines.scheduler.state import (
    CANCELLED,
    FAILED,
    REFUSED_ARRIVAL,
    SELECTIVE,
    WHOLE,
    SchedulerState,
)
from batchpilot.engines.scheduler.tenants import count_in, leave_line, somebody_may_join
from batchpilot.latency.model.compiled import inlined, kernel
from batchpilot.latency.model.saturation import is_reachable, largest_tokens, step_ms

LOW_PRIORITY_QUEUE_SHARE = 2
"""Under the priority discipline low-priority requests may fill one part in this many of `max_queued_tokens`."""

_HIGH, _LOW = 0, 2


@inlined
def next_arrival_ms(s: SchedulerState) -> float:
    """When the next request reaches the scheduler; infinity when none is left or every client waits for an answer."""
    c = s.clock[0]
    if c.conversations:
        return s.requests[s.turns[0].coming].arrival_ms + c.front_ms if c.n_coming > 0 else math.inf
    if c.next_arrival >= c.n_requests:
        return math.inf
    if c.concurrency > 0:
        busy = c.next_arrival - c.n_ended + c.cancelled_ahead
        return c.now_ms if busy < c.concurrency else math.inf
    return s.requests[c.next_arrival].arrival_ms + c.front_ms


@kernel
def count_arrival(s: SchedulerState, r: int) -> None:
    """Count a request that arrives into the window."""
    w = s.window[0]
    k = w.arrivals % s.targets.shape[1]
    s.targets[0, k] = s.requests[r].ttft_target_ms
    s.targets[1, k] = s.requests[r].tpot_target_ms
    w.arrivals += 1
    w.arrived_prompt_tokens += s.requests[r].prompt
    note_prompt(s, r)


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
        if c.prefix_cache:
            look_up(s, r)
            s.requests[r].cached = s.requests[r].computed
        s.requests[r].unanswered = 1
        c.unanswered_tokens += s.requests[r].prompt - s.requests[r].cached
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
        if c.conversations:
            admit(s, take_coming(s))
            continue
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

    Its image is encoded with those that the step encodes already, then what is cached of its prompt is read, and the
    rest follows in full steps beside the requests that run now, who go on drafting as they do now.
    """
    c = s.clock[0]
    requests = c.n_plan + 1
    cached = s.requests[r].computed
    context = c.plan_context + cached
    first = step_ms(s.parameters[0, 1:], float(requests), float(c.plan_total_tokens + first_chunk), float(context))
    if c.images:
        first += c.plan_encode_ms + encode_ms(s, r)
    others = c.n_plan + c.plan_drafted
    drafting_ms = draft_ms(s, s.parameters[0, 1:]) if c.plan_drafted > 0 else 0.0
    first += drafting_ms
    rest = s.requests[r].prompt - cached - first_chunk
    if rest <= 0:
        return first
    full = step_tokens(s, c.n_plan, others, context, first_chunk)
    room = max(full - others, 1)
    whole_steps = rest // room
    last = rest - whole_steps * room
    full_ms = step_ms(s.parameters[0, 1:], float(requests), float(max(full, 1)), float(context)) + drafting_ms
    time = first + whole_steps * full_ms
    if last > 0:
        time += step_ms(s.parameters[0, 1:], float(requests), float(others + last), float(context)) + drafting_ms
    return time


@kernel
def guard_refuses(s: SchedulerState, r: int, prefill_ms: float) -> bool:
    """Whether the TTFT guard refuses a request whose turn has come; never one that was admitted before or relegated."""
    guard = s.limits[0].ttft_guard
    if is_relegated(s, r):
        return False
    waited = s.clock[0].now_ms - s.requests[r].arrival_ms
    return (
        guard < math.inf and s.requests[r].admitted == 0 and waited + prefill_ms > guard * s.requests[r].ttft_target_ms
    )


@inlined
def is_delayed(s: SchedulerState) -> bool:
    """Whether it is too soon after a step with a prompt to let somebody in beside those who run."""
    c = s.clock[0]
    return bool(c.n_running > 0 and c.now_ms < c.prompt_end_ms + s.limits[0].delay_factor * c.prompt_step_ms)


@inlined
def head_of_queue(s: SchedulerState) -> int:
    """The request whose turn is next, with what the cache has of it now."""
    r = s.lines[0].waiting
    if s.clock[0].prefix_cache:
        look_up(s, r)
    return r


@inlined
def count_admission(s: SchedulerState, r: int) -> None:
    """Count a request that is let in, and the tokens of its prompt that need not be computed.

    Tokens that it finds again after a preemption were not computed in vain.
    """
    c = s.clock[0]
    w = s.window[0]
    if s.requests[r].admitted == 0:
        s.requests[r].admitted = 1
        note_decision(s, r, 0.0)
        w.admitted_prompt_tokens += s.requests[r].prompt
        if c.prefix_cache:
            c.unanswered_tokens -= s.requests[r].computed - s.requests[r].cached
            s.requests[r].cached = s.requests[r].computed
        w.cached_prompt_tokens += s.requests[r].cached
    c.useful_tokens += s.requests[r].computed - s.requests[r].cached


@kernel
def admit_next(s: SchedulerState, tokens: int) -> bool:
    """Move the next waiting request into the step with `tokens`, or refuse it by the guard; False if KV is short.

    It takes the KV blocks of all it is known to need, its prompt and what it generated before a preemption: letting it
    in on its first chunk would have half-computed prompts push one another out again and again.
    """
    c = s.clock[0]
    r = s.lines[0].waiting
    guarded = s.limits[0].ttft_guard < math.inf
    if guarded and guard_refuses(s, r, predicted_prefill_ms(s, r, tokens)):
        turn_away(s, r)
        return True
    if blocks_needed(s, r) > c.free_blocks:
        return False
    if c.ceilings:
        count_in(s, r)
    leave_line(s, r)
    claim(s, r)
    if c.images:
        look_at(s, r)
    if c.discipline == VISION:
        s.requests[r].key = key_on_arrival(s, r)
    count_admission(s, r)
    c.virtual_time = max(c.virtual_time, s.requests[r].key)
    s.slots[c.n_running].running = r
    c.n_running += 1
    add_to_plan(s, r, tokens)
    return True


@kernel
def make_way(s: SchedulerState) -> None:
    """Under the priority discipline, preempt less urgent classes for a waiting high-priority request."""
    c = s.clock[0]
    while c.n_queue > 0:
        if c.ceilings and not somebody_may_join(s):
            return
        if s.requests[s.lines[0].waiting].priority != _HIGH:
            return
        if c.n_running < s.limits[0].batch_size and blocks_needed(s, head_of_queue(s)) <= c.free_blocks:
            return
        position = least_urgent(s)
        if position < 0 or s.requests[s.slots[position].running].priority == _HIGH:
            return
        preempt(s, position)
        close_holes(s)
