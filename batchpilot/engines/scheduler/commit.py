"""What a step changed: tokens computed and emitted, requests finished, or the step failed. Compiled, unchecked."""

from __future__ import annotations

from batchpilot.engines.scheduler.lifecycle import close_holes, end_request, first_token, preempt
from batchpilot.engines.scheduler.prefix_cache import share
from batchpilot.engines.scheduler.speculation import drop_drafts, settle_drafts
from batchpilot.engines.scheduler.state import FAILED, LENGTH, SchedulerState
from batchpilot.latency.model.compiled import inlined, kernel

MAX_RETRIES = 3
"""Failed steps that a request may be blamed for before it fails itself."""


@inlined
def count_step(s: SchedulerState, duration_ms: float) -> None:
    """Advance the clock by the step just run and count it into the window.

    The log tells of its tokens alone: what was encoded before them is a gap in it, as idle time is.
    """
    c = s.clock[0]
    w = s.window[0]
    if c.n_logged < len(s.step_log):
        entry = s.step_log[c.n_logged]
        entry[0] = c.now_ms + c.plan_encode_ms
        entry[1] = c.n_plan
        entry[2] = c.plan_total_tokens
        entry[3] = c.plan_context
        entry[4] = duration_ms - c.plan_encode_ms
        c.n_logged += 1
    c.now_ms += duration_ms
    c.computed_tokens += c.plan_total_tokens
    s.step_times[w.steps % len(s.step_times)] = duration_ms
    w.steps += 1
    w.busy_ms += duration_ms
    w.encode_ms += c.plan_encode_ms
    w.batch_sum += c.n_plan
    w.token_sum += c.plan_total_tokens
    w.context_sum += c.plan_context
    used = c.total_blocks - c.free_blocks
    memory = c.fixed_mb + used * c.block_size * c.kv_mb_per_token + c.plan_total_tokens * c.activation_mb_per_token
    w.kv_block_ms += used * duration_ms
    w.memory_mb_ms += memory * duration_ms
    w.peak_mb = max(w.peak_mb, memory)


@inlined
def note_prompts(s: SchedulerState, duration_ms: float) -> None:
    """Remember the step just run if it computed a prompt, that is more tokens than requests, drafts aside."""
    c = s.clock[0]
    if c.plan_total_tokens - c.plan_drafted > c.n_plan:
        c.prompt_end_ms = c.now_ms
        c.prompt_step_ms = duration_ms


@inlined
def commit(s: SchedulerState, duration_ms: float) -> None:
    """The planned step ran: tokens are computed, requests whose need reached zero emit one, finished ones leave.

    Of a request with a draft, `tokens` says by now how many of it are kept: its next one, and those that were accepted.
    """
    c = s.clock[0]
    w = s.window[0]
    count_step(s, duration_ms)
    note_prompts(s, duration_ms)
    c.useful_tokens += c.plan_total_tokens
    finished = False
    emitted = settle_drafts(s) if c.plan_drafted > 0 else 0
    prefill = 0
    for k in range(c.n_plan):
        r = s.slots[k].planned
        tokens = s.slots[k].tokens
        request = s.requests[r]
        if tokens > 1 or request.generated == 0:
            prefill += tokens
        request.computed += tokens
        if c.prefix_cache:
            share(s, r, min(request.computed, request.prompt))
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
    if finished:
        close_holes(s)


@kernel
def commit_failure(s: SchedulerState, duration_ms: float) -> None:
    """The planned step failed: its work is undone, and the request that asked most of it goes back to the queue.

    That request is the one with the most tokens in the step, the last admitted among equals; after `MAX_RETRIES`
    further failures it is ended as failed, so that an engine that cannot run a step does not try it for ever. A member
    of a padded batch that has said everything and only kept its place has finished instead.
    """
    c = s.clock[0]
    count_step(s, duration_ms)
    s.window[0].failures += 1
    if c.plan_drafted > 0:
        drop_drafts(s)
    blamed = s.slots[0].planned
    most = 0
    for k in range(c.n_plan):
        if s.slots[k].tokens >= most:
            most = s.slots[k].tokens
            blamed = s.slots[k].planned
    s.requests[blamed].retries += 1
    if s.requests[blamed].generated == s.requests[blamed].output:
        end_request(s, blamed, LENGTH)
    elif s.requests[blamed].retries > MAX_RETRIES:
        end_request(s, blamed, FAILED)
    else:
        for k in range(c.n_running):
            if s.slots[k].running == blamed:
                preempt(s, k)
                break
    close_holes(s)
