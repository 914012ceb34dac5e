"""The scheduler: who runs in the next step, with how many tokens, and what the step changed. Compiled, unchecked.

One token view for everything: a request needs `prompt + generated - computed` tokens computed; a step gives each
request at most that many within the token budget, and when the need reaches zero the request emits one token. Decoding
is the case need = 1, prefill the case need > 1, recomputation after preemption the same again.

An executor (simulated or torch) loops: `admit_arrivals`, `plan`, run the planned tokens, then `commit(duration)`, or
`commit_failure(duration)` when the step failed. `plan` fills `slots[:n_plan]` with `planned` ids and their `tokens`.
Static (padded) batching is in `static_batching.py`.
"""

from __future__ import annotations

import math

from batchpilot.engines.scheduler.admission import admit_next, chunk, head_of_queue, is_delayed, make_way
from batchpilot.engines.scheduler.images import begin_encoding
from batchpilot.engines.scheduler.lifecycle import add_to_plan, close_holes, refuse_hopeless, reserve
from batchpilot.engines.scheduler.queue import PRIORITY, VISION, change_discipline, follow_guard
from batchpilot.engines.scheduler.speculation import draft_ms, plan_drafts
from batchpilot.engines.scheduler.state import SELECTIVE, SchedulerState
from batchpilot.engines.scheduler.tenants import somebody_may_join
from batchpilot.engines.scheduler.vision import line_up
from batchpilot.latency.model.compiled import inlined, kernel
from batchpilot.latency.model.saturation import step_ms

LONG_PROMPT_TOKENS = 512
"""Selective prefill: needs below this are mixed with decoding, longer ones run alone (batching document)."""


@inlined
def is_guarded(s: SchedulerState) -> bool:
    """Whether the TTFT guard has something to do with those that wait."""
    c = s.clock[0]
    return bool(c.n_queue > 0 and min(c.ttft_guard, s.limits[0].ttft_guard) < math.inf)


@inlined
def look_after_the_waiting(s: SchedulerState) -> None:
    """Refuse who waits and has become hopeless; whose turn depends on how others wait is put in order."""
    if is_guarded(s):
        follow_guard(s)
        refuse_hopeless(s, s.clock[0].now_ms)
    if s.clock[0].discipline == VISION:
        line_up(s)


@inlined
def open_plan(s: SchedulerState) -> None:
    """Begin planning a step: an empty plan, and the discipline in force."""
    c = s.clock[0]
    c.step += 1
    c.n_plan = 0
    c.plan_total_tokens = 0
    c.plan_context = 0
    c.kv_short = 0
    begin_encoding(s)
    if s.limits[0].discipline != c.discipline:
        change_discipline(s, s.limits[0].discipline)
    look_after_the_waiting(s)


@kernel
def close_plan(s: SchedulerState) -> int:
    """A step is planned: who waits and will be hopeless at its end is refused now; returns the requests in it."""
    c = s.clock[0]
    if c.n_due > 0 and c.n_plan > 0:
        estimate = s.parameters[0, 1:]
        step = step_ms(estimate, float(c.n_plan), float(c.plan_total_tokens), float(c.plan_context))
        if c.plan_drafted > 0:
            step += draft_ms(s, estimate)
        refuse_hopeless(s, c.now_ms + step + c.plan_encode_ms)
    return c.n_plan


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
    if is_delayed(s):
        return
    while c.n_queue > 0 and c.n_running < s.limits[0].batch_size:
        if c.ceilings and not somebody_may_join(s):
            return
        r = head_of_queue(s)
        need = s.requests[r].prompt + s.requests[r].generated - s.requests[r].computed
        if c.prefill == SELECTIVE and need >= LONG_PROMPT_TOKENS:
            return
        tokens = chunk(s, r)
        if tokens == 0 or not admit_next(s, tokens):
            return


@inlined
def next_holds_blocks(s: SchedulerState) -> bool:
    """Whether the request whose turn is next has all its KV blocks, because its KV was computed elsewhere."""
    return bool(s.clock[0].n_queue > 0 and s.requests[s.lines[0].waiting].blocks > 0)


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
    if is_delayed(s):
        return False
    while c.n_plan == 0 and c.n_queue > 0 and c.n_running < limits.batch_size:
        if c.ceilings and not somebody_may_join(s):
            break
        r = head_of_queue(s)
        need = s.requests[r].prompt + s.requests[r].generated - s.requests[r].computed
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
def plan(s: SchedulerState) -> int:
    """Plan one step of continuous batching.

    Decoding comes first, drafts with it, then prompts under way, then admissions; nobody is admitted in a step that had
    to preempt, but for who holds the blocks that were missing and would wait for ever. With selective prefill a long
    prompt has every second step to itself, so that decoding goes on.

    Returns:
        Requests in the step, 0 when there is nothing to run.
    """
    c = s.clock[0]
    open_plan(s)
    if c.discipline == PRIORITY:
        make_way(s)
    if c.prefill == SELECTIVE and c.long_prompt_last == 0 and plan_long_prompt(s):
        c.long_prompt_last = 1
        return close_plan(s)
    c.long_prompt_last = 0
    prefills = plan_decodes(s)
    if s.limits[0].speculative_tokens > 0:
        plan_drafts(s)
    if prefills > 0:
        plan_prefills(s)
    if c.kv_short:
        close_holes(s)
    if c.kv_short == 0 or (c.n_plan == 0 and next_holds_blocks(s)):
        plan_admissions(s)
    if c.prefill == SELECTIVE:
        plan_whatever_is_next(s)
    return close_plan(s)
