"""Decoding without touching every request: a step costs what changes in it. Compiled, unchecked.

A request that only decodes gets one token a step, so everything about it follows from the *decode epoch*, the number of
steps in which all of them spoke: it ends at a known epoch, and asks for a KV block every `block_size` epochs. While
`clock.decoding` is set, decoding requests are therefore kept in two calendars, a heap by last epoch and a count a block
phase, and their records are stale; `open_calendars` goes over to that, `close_calendars` brings the records up to date.
Between the two only requests that start, compute a prompt or end are touched. What needs more than that (too few KV
blocks, limits below what runs, drafts, the priority discipline, selective prefill, padded batches) is left to `plan`.
"""

from __future__ import annotations

from batchpilot.engines.scheduler.admission import chunk
from batchpilot.engines.scheduler.commit import count_step, note_prompts
from batchpilot.engines.scheduler.images import begin_encoding
from batchpilot.engines.scheduler.kv_blocks import blocks_for, take
from batchpilot.engines.scheduler.lifecycle import add_to_plan, end_request, first_token
from batchpilot.engines.scheduler.plan import close_plan, look_after_the_waiting, plan_admissions
from batchpilot.engines.scheduler.prefix_cache import share
from batchpilot.engines.scheduler.queue import PRIORITY
from batchpilot.engines.scheduler.state import CONTINUOUS, LENGTH, SELECTIVE, SchedulerState
from batchpilot.latency.model.compiled import inlined, kernel

PAUSE_STEPS = 64
"""Steps left to `plan` after KV blocks ran short: they will be short again."""

PLACES = 2**32
"""Calendar entries are epoch * PLACES + place in the order of admission: who ends first, in one step who came first."""

SPOKE = -1
"""Stands in `in_step` of a request that has just said the first token after its prompt."""


@kernel
def join(s: SchedulerState, r: int) -> None:
    """A running request whose need is one token decodes from the next step on."""
    c = s.clock[0]
    request = s.requests[r]
    key = (c.epoch + request.output - request.generated) * PLACES + s.slots[r].position
    c.decode_context += request.computed
    s.slots[(request.computed - c.epoch) % c.block_size].asking += 1
    c.n_decoding += 1
    enter_end(s, c.n_decoding - 1, key)


@kernel
def enter_end(s: SchedulerState, i: int, key: int) -> None:
    """Put an entry at place `i` of the heap of ends, or above it where those end later."""
    while i > 0:
        parent = (i - 1) >> 1
        if s.lines[parent].ends < key:
            break
        s.lines[i].ends = s.lines[parent].ends
        i = parent
    s.lines[i].ends = key


@inlined
def blocks_due(s: SchedulerState) -> int:
    """KV blocks that decoding requests ask for in the next step."""
    c = s.clock[0]
    return s.slots[-c.epoch % c.block_size].asking


@inlined
def first_end(s: SchedulerState) -> int:
    """The decode epoch after which the next decoding request ends."""
    return s.lines[0].ends // PLACES


@kernel
def update_record(s: SchedulerState, entry: int) -> int:
    """Bring the record of the decoding request of a calendar entry up to date; returns the request."""
    c = s.clock[0]
    r = s.slots[entry % PLACES].order
    request = s.requests[r]
    request.generated = request.output - (entry // PLACES - c.epoch)
    request.computed = request.prompt + request.generated - 1
    request.blocks = blocks_for(request.computed, c.block_size)
    return r


@kernel
def end_first(s: SchedulerState) -> None:
    """The decoding request that ends first has said its last token."""
    c = s.clock[0]
    r = update_record(s, s.lines[0].ends)
    c.decode_context -= s.requests[r].computed
    s.slots[(s.requests[r].computed - c.epoch) % c.block_size].asking -= 1
    finish(s, r)
    c.n_decoding -= 1
    n = c.n_decoding
    last = s.lines[n].ends
    i = 0
    while True:
        child = 2 * i + 1
        if child >= n:
            break
        if child + 1 < n and s.lines[child + 1].ends < s.lines[child].ends:
            child += 1
        s.lines[i].ends = s.lines[child].ends
        i = child
    enter_end(s, i, last)


@kernel
def finish(s: SchedulerState, r: int) -> None:
    """A running request has finished."""
    s.slots[s.slots[r].position].order = -1
    s.clock[0].n_running -= 1
    end_request(s, r, LENGTH)


@kernel
def start(s: SchedulerState, r: int) -> None:
    """A request runs from now on, with a prompt to compute."""
    c = s.clock[0]
    s.slots[c.n_order].order = r
    s.slots[r].position = c.n_order
    c.n_order += 1
    s.slots[c.n_prefilling].prefilling = r
    c.n_prefilling += 1


@kernel
def decodes(s: SchedulerState, r: int) -> bool:
    """Whether a running request needs one token, and asks for its next KV block when its last one is full."""
    request = s.requests[r]
    need = request.prompt + request.generated - request.computed
    full = request.blocks == blocks_for(request.computed, s.clock[0].block_size)
    return bool(request.generated > 0 and need == 1 and full)


@kernel
def has_its_blocks(s: SchedulerState, r: int) -> bool:
    """Whether a running request holds the KV blocks of all it is known to need, as admission gives them."""
    request = s.requests[r]
    return bool(request.blocks >= blocks_for(request.prompt + request.generated, s.clock[0].block_size))


@kernel
def open_calendars(s: SchedulerState) -> bool:
    """Go over to calendars where they can serve the limits in force; returns whether that was done.

    The largest step must fit into memory, since a step that fails is undone request by request.
    """
    c = s.clock[0]
    limits = s.limits[0]
    if c.mode != CONTINUOUS or c.prefill == SELECTIVE or c.discipline == PRIORITY or c.block_size > len(s.slots):
        return False
    if limits.discipline != c.discipline or c.step < c.decoding_pause or limits.speculative_tokens > 0:
        return False
    if c.n_running > min(limits.batch_size, limits.token_budget):
        return False
    kv_mb = c.total_blocks * c.block_size * c.kv_mb_per_token
    if c.total_mb > 0 and c.fixed_mb + kv_mb + limits.token_budget * c.activation_mb_per_token > c.total_mb:
        return False
    for k in range(c.n_running):
        if not decodes(s, s.slots[k].running) and not has_its_blocks(s, s.slots[k].running):
            return False
    c.decoding = 1
    c.n_order = 0
    c.n_prefilling = 0
    c.n_decoding = 0
    c.decode_context = 0
    for phase in range(c.block_size):
        s.slots[phase].asking = 0
    for k in range(c.n_running):
        r = s.slots[k].running
        if decodes(s, r):
            s.slots[c.n_order].order = r
            s.slots[r].position = c.n_order
            c.n_order += 1
            join(s, r)
        else:
            start(s, r)
    return True


@kernel
def close_calendars(s: SchedulerState) -> None:
    """Bring every record up to date: running requests stand in `running` again, in order of admission."""
    c = s.clock[0]
    for k in range(c.n_decoding):
        update_record(s, s.lines[k].ends)
    kept = 0
    for k in range(c.n_order):
        if s.slots[k].order >= 0:
            s.slots[kept].running = s.slots[k].order
            kept += 1
    c.decoding = 0


@inlined
def plan_by_calendar(s: SchedulerState) -> int:
    """`plan` while `clock.decoding` is set.

    Returns:
        Requests in the step, 0 when there is nothing to run, -1 when KV blocks are short: nothing was changed then.
    """
    c = s.clock[0]
    due = blocks_due(s)
    if due > c.free_blocks or c.n_running > s.limits[0].token_budget:
        c.decoding_pause = c.step + PAUSE_STEPS
        return -1
    c.step += 1
    take(s, due)
    c.n_plan = c.n_decoding
    c.plan_total_tokens = c.n_decoding
    c.plan_context = c.decode_context
    c.kv_short = 0
    begin_encoding(s)
    look_after_the_waiting(s)
    if c.n_prefilling > 0:
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
        if s.requests[r].prompt + s.requests[r].generated - s.requests[r].computed == 1:
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
        if place < PLACES:
            lacking = request.prompt + request.generated - request.computed
            if lacking > 1 or s.slots[r].position > place:
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
