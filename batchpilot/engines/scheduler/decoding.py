"""Decoding without touching every request: a step costs what changes in it. Compiled, unchecked.

While the calendars of `calendars.py` are open, only requests that start, compute a prompt or end are touched. What
needs more than that (too few KV blocks, drafts, the priority discipline, selective prefill, padded batches) is left to
`plan`.
"""

from __future__ import annotations

from batchpilot.engines.scheduler.admission import chunk
from batchpilot.engines.scheduler.calendars import (
    PLACES,
    blocks_due,
    end_first,
    finish,
    first_end,
    join,
    let_in_held,
    most_decoding,
    need,
    start,
)
from batchpilot.engines.scheduler.commit import count_step, note_prompts
from batchpilot.engines.scheduler.images import begin_encoding
from batchpilot.engines.scheduler.kv_blocks import take
from batchpilot.engines.scheduler.lifecycle import add_to_plan, first_token
from batchpilot.engines.scheduler.plan import close_plan, look_after_the_waiting, plan_admissions
from batchpilot.engines.scheduler.prefix_cache import share
from batchpilot.engines.scheduler.state import SchedulerState
from batchpilot.latency.model.compiled import inlined, kernel

PAUSE_STEPS = 64
"""Steps left to `plan` after KV blocks ran short: they will be short again."""

SPOKE = -1
"""Stands in `in_step` of a request that has just said the first token after its prompt."""


@kernel
def prompt_lacks_one(s: SchedulerState) -> bool:
    """Whether a prompt under way lacks one token: where not all have room, its turn is among those who decode."""
    lacking = 0
    for k in range(s.clock[0].n_prefilling):
        lacking += need(s, s.slots[k].prefilling) == 1
    return lacking > 0


@inlined
def plan_by_calendar(s: SchedulerState) -> int:
    """`plan` while `clock.decoding` is set.

    Returns:
        Requests in the step, 0 when there is nothing to run, -1 when it is left to `plan`: nothing was changed then.
    """
    c = s.clock[0]
    due = blocks_due(s)
    if due > c.free_blocks:
        c.decoding_pause = c.step + PAUSE_STEPS
        return -1
    if c.n_running > most_decoding(s) and prompt_lacks_one(s):
        return -1
    c.step += 1
    c.kv_short = 0
    begin_encoding(s)
    # First, as in `plan`: a block that is taken may be one that a request which waits would have found.
    look_after_the_waiting(s)
    take(s, due)
    c.n_plan = c.n_decoding
    c.plan_total_tokens = c.n_decoding
    c.plan_context = c.decode_context
    if c.n_prefilling > 0 and c.n_held == 0:
        plan_prompts(s)
    if c.n_queue > 0:
        planned = c.n_plan
        plan_admissions(s)
        for k in range(planned, c.n_plan):
            start(s, s.slots[k].planned)
    return close_plan(s)


@kernel
def plan_prompts(s: SchedulerState) -> None:
    """Prompts under way: those that lack one token go with the decoding requests, then further chunks."""
    c = s.clock[0]
    for k in range(c.n_prefilling):
        r = s.slots[k].prefilling
        if need(s, r) == 1:
            add_to_plan(s, r, 1)
    for k in range(c.n_prefilling):
        r = s.slots[k].prefilling
        if s.requests[r].in_step == c.step:
            continue
        if c.n_plan >= s.limits[0].batch_size:
            return
        tokens = chunk(s, r)
        if tokens == 0:
            return
        add_to_plan(s, r, tokens)


@inlined
def commit_by_calendar(s: SchedulerState, duration_ms: float) -> None:
    """`commit` while `clock.decoding` is set."""
    c = s.clock[0]
    decoding = c.n_decoding
    count_step(s, duration_ms)
    note_prompts(s, duration_ms)
    c.useful_tokens += c.plan_total_tokens
    s.window[0].generated_tokens += decoding
    c.epoch += 1
    c.decode_context += decoding
    first = decoding
    while c.n_decoding > 0 and first_end(s) == c.epoch:
        if first < c.n_plan:
            first = commit_prompts(s, first, s.lines[0].ends % PLACES)
        end_first(s)
    if first < c.n_plan:
        commit_prompts(s, first, PLACES)
    if c.n_plan > decoding:
        forget_who_spoke(s)
    if c.n_held > 0:
        let_in_held(s)


@kernel
def commit_prompts(s: SchedulerState, first: int, place: int) -> int:
    """The chunks planned from `first` on are computed; whose prompt is done speaks, and decodes from then on.

    With a `place` only those that lacked one token and were admitted before it: requests end in the order in which
    `plan` has them, since the prefix cache forgets in that order.

    Returns:
        The first that is left.
    """
    c = s.clock[0]
    w = s.window[0]
    for k in range(first, c.n_plan):
        r = s.slots[k].planned
        tokens = s.slots[k].tokens
        request = s.requests[r]
        if place < PLACES and (need(s, r) > 1 or s.slots[r].position > place):
            return k
        if tokens > 1 or request.generated == 0:
            w.prefill_tokens += tokens
        request.computed += tokens
        if c.prefix_cache:
            share(s, r, min(request.computed, request.prompt))
        if request.computed < request.prompt + request.generated:
            continue
        request.in_step = SPOKE
        request.generated += 1
        w.generated_tokens += 1
        if request.generated == 1:
            first_token(s, r)
        if request.generated == request.output:
            finish(s, r)
        else:
            join(s, r)
    return c.n_plan


@inlined
def forget_who_spoke(s: SchedulerState) -> None:
    """Whose prompt is done is no longer among those that are prefilling."""
    c = s.clock[0]
    kept = 0
    for k in range(c.n_prefilling):
        r = s.slots[k].prefilling
        if s.requests[r].in_step != SPOKE:
            s.slots[kept].prefilling = r
            kept += 1
    c.n_prefilling = kept
