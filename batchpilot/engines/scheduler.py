"""The scheduler: who runs in the next step, with how many tokens, and what the step changed. Compiled, unchecked.

One token view for everything: a request needs `prompt + generated - computed` tokens computed; a step gives each
request at most that many within the token budget, and when the need reaches zero the request emits one token. Decoding
is the case need = 1, prefill the case need > 1, recomputation after preemption the same again.

An executor (simulated or torch) loops: `admit_arrivals`, `plan`, run the planned tokens, then `commit(duration)`, or
`commit_failure(duration)` when the step failed. `plan` fills `plan_request[:n_plan]` and `plan_tokens[:n_plan]`.
Static (padded) batching is in `static_batching.py`.
"""

from __future__ import annotations

import math

from batchpilot.engines.queue import PRIORITY, change_discipline, key_on_arrival, pop, push, sooner
from batchpilot.engines.state import (
    FAILED,
    LENGTH,
    REFUSED_ARRIVAL,
    REFUSED_GUARD,
    SELECTIVE,
    UNFINISHED,
    WHOLE,
    SchedulerState,
)
from batchpilot.latency.compiled import inlined, kernel
from batchpilot.latency.saturation import largest_tokens, step_ms

LONG_PROMPT_TOKENS = 512
"""Selective prefill: needs below this are mixed with decoding, longer ones run alone (batching document)."""

LOW_PRIORITY_QUEUE_SHARE = 2
"""Under the priority discipline low-priority requests may fill one part in this many of `max_queued_tokens`."""

MAX_RETRIES = 3
"""Failed steps that a request may be blamed for before it fails itself."""

_HIGH, _LOW = 0, 2


@kernel
def blocks_for(tokens: int, block_size: int) -> int:
    """KV blocks that hold so many tokens."""
    return (tokens + block_size - 1) // block_size


@kernel
def end_request(s: SchedulerState, r: int, reason: int) -> None:
    """A request ends: its reason and time are written once, its KV blocks are freed."""
    c = s.clock[0]
    s.requests[r].reason = reason
    s.requests[r].finish_ms = c.now_ms
    c.free_blocks += s.requests[r].blocks
    s.requests[r].blocks = 0
    s.slots[c.n_ended].ended = r
    c.n_ended += 1


@inlined
def next_arrival_ms(s: SchedulerState) -> float:
    """When the next request arrives; infinity when none is left or every client of a closed loop is waiting."""
    c = s.clock[0]
    if c.next_arrival >= c.n_requests:
        return math.inf
    if c.concurrency > 0:
        return c.now_ms if c.next_arrival - c.n_ended < c.concurrency else math.inf
    return s.requests[c.next_arrival].arrival_ms


@inlined
def admit_arrivals(s: SchedulerState) -> None:
    """Take every request that has arrived by now into the queue, or refuse it."""
    c = s.clock[0]
    w = s.window[0]
    limit = s.limits[0].max_queued_tokens
    while next_arrival_ms(s) <= c.now_ms:
        r = c.next_arrival
        c.next_arrival += 1
        if c.concurrency > 0:
            s.requests[r].arrival_ms = c.now_ms
        w.arrivals += 1
        w.arrived_prompt_tokens += s.requests[r].prompt
        w.ttft_target_sum += s.requests[r].ttft_target_ms
        w.tpot_target_sum += s.requests[r].tpot_target_ms
        length = s.requests[r].prompt + s.requests[r].output
        allowed = limit
        if c.discipline == PRIORITY and s.requests[r].priority == _LOW:
            allowed //= LOW_PRIORITY_QUEUE_SHARE
        if length > c.max_model_len or blocks_for(length - 1, c.block_size) > c.total_blocks:
            end_request(s, r, FAILED)
        elif c.queued_tokens + s.requests[r].prompt > allowed:
            end_request(s, r, REFUSED_ARRIVAL)
        else:
            s.requests[r].key = key_on_arrival(s, r)
            push(s, r)


@kernel
def preempt(s: SchedulerState, position: int) -> None:
    """Put the running request at `position` back into the queue, to be recomputed; its place becomes a hole (-1)."""
    c = s.clock[0]
    r = s.slots[position].running
    s.slots[position].running = -1
    c.free_blocks += s.requests[r].blocks
    c.useful_tokens -= s.requests[r].computed
    s.requests[r].blocks = 0
    s.requests[r].computed = 0
    s.window[0].preemptions += 1
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
    missing = blocks_for(s.requests[r].computed + tokens, c.block_size) - s.requests[r].blocks
    while missing > c.free_blocks:
        c.kv_short = 1
        position = least_urgent(s)
        itself = s.slots[position].running == r
        preempt(s, position)
        if itself:
            return False
    s.requests[r].blocks += missing
    c.free_blocks -= missing
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


@kernel
def step_tokens(s: SchedulerState, requests: int, context: int) -> int:
    """Most tokens a step of so many requests and context tokens may hold: the budget, cut by `step_target_ms`.

    A target that not even a step of one token would meet is no guide and is ignored; whole and selective prefill do not
    cut prompts, so it does not apply to them.
    """
    c = s.clock[0]
    limits = s.limits[0]
    budget = limits.token_budget
    target = limits.step_target_ms
    if target == math.inf or c.prefill in (WHOLE, SELECTIVE) or step_ms(s.parameters[0, 1:], 1.0, 1.0, 0.0) > target:
        return budget
    # Beyond 2**30 tokens the estimate has long saturated; the cap keeps the bisection short when the budget is off.
    return largest_tokens(s.parameters[0, 1:], float(requests), float(context), target, min(budget, 2**30))


@kernel
def chunk(s: SchedulerState, r: int) -> int:
    """Tokens of its prompt that a request may compute in the step being planned, 0 for none."""
    c = s.clock[0]
    need = s.requests[r].prompt + s.requests[r].generated - s.requests[r].computed
    room = step_tokens(s, c.n_plan + 1, c.plan_context + s.requests[r].computed) - c.plan_total_tokens
    if c.n_plan == 0 and room < 1:
        # Alone it misses the target whatever its chunk is, so a small chunk would only prolong it.
        room = s.limits[0].token_budget
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
    full = step_tokens(s, requests, context + first_chunk)
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
    """Move the next waiting request into the step with `tokens`, or refuse it by the guard; False if KV is short."""
    c = s.clock[0]
    r = s.slots[0].waiting
    if guard_refuses(s, r, predicted_prefill_ms(s, r, tokens)):
        pop(s)
        end_request(s, r, REFUSED_GUARD)
        return True
    missing = blocks_for(tokens, c.block_size)
    if missing > c.free_blocks:
        return False
    pop(s)
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
    limits = s.limits[0]
    while c.n_queue > 0 and s.requests[s.slots[0].waiting].priority == _HIGH:
        first = min(s.requests[s.slots[0].waiting].prompt, limits.token_budget)
        if c.n_running < limits.batch_size and blocks_for(first, c.block_size) <= c.free_blocks:
            return
        position = least_urgent(s)
        if position < 0 or s.requests[s.slots[position].running].priority == _HIGH:
            return
        preempt(s, position)
        close_holes(s)


@inlined
def plan_decodes(s: SchedulerState) -> int:
    """One token for every decoding request, while limits and KV allow; returns how many still have a prompt left."""
    c = s.clock[0]
    most = min(s.limits[0].batch_size, s.limits[0].token_budget)
    prefills = 0
    planned = 0
    context = 0
    for k in range(c.n_running):
        r = s.slots[k].running
        if r < 0:
            continue
        request = s.requests[r]
        if request.prompt + request.generated - request.computed > 1:
            prefills += 1
        elif planned < most and (request.computed < request.blocks * c.block_size or reserve(s, r, 1)):
            s.slots[planned].planned = r
            s.slots[planned].tokens = 1
            request.in_step = c.step
            planned += 1
            context += request.computed
    c.n_plan = planned
    c.plan_total_tokens = planned
    c.plan_context = context
    return prefills


@kernel
def plan_prefills(s: SchedulerState) -> None:
    """Further chunks for running requests whose prompt is not done, in order of admission."""
    c = s.clock[0]
    for k in range(c.n_running):
        r = s.slots[k].running
        if r < 0 or s.requests[r].in_step == c.step:
            continue
        need = s.requests[r].prompt + s.requests[r].generated - s.requests[r].computed
        if need == 1 or (c.prefill == SELECTIVE and need >= LONG_PROMPT_TOKENS):
            continue
        if c.n_plan >= s.limits[0].batch_size:
            return
        tokens = chunk(s, r)
        if tokens == 0:
            return
        if reserve(s, r, tokens):
            add_to_plan(s, r, tokens)


@inlined
def plan_admissions(s: SchedulerState) -> None:
    """Waiting requests join in the order of their keys while batch size, tokens and KV allow."""
    c = s.clock[0]
    while c.n_queue > 0 and c.n_running < s.limits[0].batch_size:
        r = s.slots[0].waiting
        if c.prefill == SELECTIVE and s.requests[r].prompt + s.requests[r].generated >= LONG_PROMPT_TOKENS:
            return
        tokens = chunk(s, r)
        if tokens == 0 or not admit_next(s, tokens):
            return


@kernel
def plan_long_prompt(s: SchedulerState) -> bool:
    """Selective prefill: a step for one long prompt alone; False when there is none to run."""
    c = s.clock[0]
    limits = s.limits[0]
    for k in range(c.n_running):
        r = s.slots[k].running
        need = s.requests[r].prompt + s.requests[r].generated - s.requests[r].computed
        if need >= LONG_PROMPT_TOKENS:
            tokens = min(need, limits.token_budget)
            if reserve(s, r, tokens):
                add_to_plan(s, r, tokens)
            close_holes(s)
            return c.n_plan > 0
    while c.n_plan == 0 and c.n_queue > 0 and c.n_running < limits.batch_size:
        need = s.requests[s.slots[0].waiting].prompt + s.requests[s.slots[0].waiting].generated
        if need < LONG_PROMPT_TOKENS or not admit_next(s, min(need, limits.token_budget)):
            break
    return c.n_plan > 0


@kernel
def plan_whatever_is_next(s: SchedulerState) -> None:
    """Selective prefill: no step stays empty because long and short prompts wait for each other's turn."""
    c = s.clock[0]
    waiting = -1
    while c.n_plan == 0 and c.n_queue != waiting:
        waiting = c.n_queue
        if not plan_long_prompt(s):
            plan_admissions(s)


@inlined
def open_plan(s: SchedulerState) -> None:
    """Begin planning a step: an empty plan, and the discipline in force."""
    c = s.clock[0]
    c.step += 1
    c.n_plan = 0
    c.plan_total_tokens = 0
    c.plan_context = 0
    c.kv_short = 0
    if s.limits[0].discipline != c.discipline:
        change_discipline(s, s.limits[0].discipline)


@inlined
def plan(s: SchedulerState) -> int:
    """Plan one step of continuous batching.

    Decoding comes first, then prompts under way, then admissions; nobody is admitted in a step that had to preempt.
    With selective prefill a long prompt has every second step to itself, so that decoding goes on.

    Returns:
        Requests in the step, 0 when there is nothing to run.
    """
    c = s.clock[0]
    open_plan(s)
    if c.discipline == PRIORITY:
        make_way(s)
    if c.prefill == SELECTIVE and c.long_prompt_last == 0 and plan_long_prompt(s):
        c.long_prompt_last = 1
        return c.n_plan
    c.long_prompt_last = 0
    if plan_decodes(s) > 0:
        plan_prefills(s)
    if c.kv_short:
        close_holes(s)
    else:
        plan_admissions(s)
    if c.prefill == SELECTIVE:
        plan_whatever_is_next(s)
    return c.n_plan


@inlined
def count_step(s: SchedulerState, duration_ms: float) -> None:
    """Advance the clock by the step just run and count it into the window."""
    c = s.clock[0]
    w = s.window[0]
    if c.n_logged < len(s.step_log):
        entry = s.step_log[c.n_logged]
        entry[0] = c.now_ms
        entry[1] = c.n_plan
        entry[2] = c.plan_total_tokens
        entry[3] = c.plan_context
        entry[4] = duration_ms
        c.n_logged += 1
    c.now_ms += duration_ms
    c.computed_tokens += c.plan_total_tokens
    s.step_times[w.steps % len(s.step_times)] = duration_ms
    w.steps += 1
    w.busy_ms += duration_ms
    w.batch_sum += c.n_plan
    w.token_sum += c.plan_total_tokens
    w.context_sum += c.plan_context
    used = c.total_blocks - c.free_blocks
    memory = c.fixed_mb + used * c.block_size * c.kv_mb_per_token + c.plan_total_tokens * c.activation_mb_per_token
    w.kv_block_ms += used * duration_ms
    w.memory_mb_ms += memory * duration_ms
    w.peak_mb = max(w.peak_mb, memory)


@kernel
def first_token(s: SchedulerState, r: int) -> None:
    """Note the time of a request's first token."""
    c = s.clock[0]
    s.requests[r].first_ms = c.now_ms
    s.slots[c.n_first].first = r
    c.n_first += 1


@inlined
def commit(s: SchedulerState, duration_ms: float) -> None:
    """The planned step ran: tokens are computed, requests whose need reached zero emit one, finished ones leave."""
    c = s.clock[0]
    w = s.window[0]
    count_step(s, duration_ms)
    finished = False
    emitted = 0
    prefill = 0
    for k in range(c.n_plan):
        r = s.slots[k].planned
        tokens = s.slots[k].tokens
        request = s.requests[r]
        if tokens > 1 or request.generated == 0:
            prefill += tokens
        request.computed += tokens
        if request.computed == request.prompt + request.generated:
            request.generated += 1
            emitted += 1
            if request.generated == 1:
                first_token(s, r)
            if request.generated == request.output:
                end_request(s, r, LENGTH)
                finished = True
    w.prefill_tokens += prefill
    w.generated_tokens += emitted
    c.useful_tokens += c.plan_total_tokens
    if finished:
        close_holes(s)


@kernel
def commit_failure(s: SchedulerState, duration_ms: float) -> None:
    """The planned step failed: its work is undone, and the request that asked most of it goes back to the queue.

    That request is the one with the most tokens in the step, the last admitted among equals; after `MAX_RETRIES`
    further failures it is ended as failed, so that an engine that cannot run a step does not try it for ever.
    """
    c = s.clock[0]
    count_step(s, duration_ms)
    s.window[0].failures += 1
    blamed = s.slots[0].planned
    most = 0
    for k in range(c.n_plan):
        if s.slots[k].tokens >= most:
            most = s.slots[k].tokens
            blamed = s.slots[k].planned
    s.requests[blamed].retries += 1
    if s.requests[blamed].retries > MAX_RETRIES:
        end_request(s, blamed, FAILED)
    else:
        for k in range(c.n_running):
            if s.slots[k].running == blamed:
                preempt(s, k)
                break
    close_holes(s)
