"""Calendars of requests that decode: when each of them ends and asks for a KV block. Compiled, unchecked.

A request that only decodes gets one token a step, so everything about it follows from the *decode epoch*, the number of
steps in which all of them spoke: it ends at a known epoch, and asks for a KV block every `block_size` epochs. While
`clock.decoding` is set, decoding requests are therefore kept in two calendars, a heap by last epoch and a count a block
phase, and their records are stale; `open_calendars` goes over to that, `close_calendars` brings the records up to date.
Where the limits have sunk below what runs, those admitted last are *held* until others end, and no prompt goes on.
"""

from __future__ import annotations

from batchpilot.engines.scheduler.kv_blocks import blocks_for
from batchpilot.engines.scheduler.lifecycle import end_request
from batchpilot.engines.scheduler.queue import PRIORITY
from batchpilot.engines.scheduler.state import CONTINUOUS, LENGTH, SELECTIVE, SchedulerState
from batchpilot.latency.model.compiled import inlined, kernel

PLACES = 2**32
"""Calendar entries are epoch * PLACES + place in the order of admission: who ends first, in one step who came first."""


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


@inlined
def need(s: SchedulerState, r: int) -> int:
    """Tokens that a request needs computed before its next one is said."""
    return s.requests[r].prompt + s.requests[r].generated - s.requests[r].computed


@inlined
def most_decoding(s: SchedulerState) -> int:
    """Requests that may decode in a step."""
    return min(s.limits[0].batch_size, s.limits[0].token_budget)


@kernel
def decodes(s: SchedulerState, r: int) -> bool:
    """Whether a running request needs one token, and asks for its next KV block when its last one is full."""
    request = s.requests[r]
    full = request.blocks == blocks_for(request.computed, s.clock[0].block_size)
    return bool(request.generated > 0 and need(s, r) == 1 and full)


@kernel
def let_in_held(s: SchedulerState) -> None:
    """Those who are held decode, in order of admission, as far as there is room now."""
    c = s.clock[0]
    while c.n_held > 0 and c.n_decoding < most_decoding(s):
        r = s.slots[c.first_held].order
        c.first_held += 1
        if r >= 0 and decodes(s, r):
            c.n_held -= 1
            join(s, r)


@kernel
def has_its_blocks(s: SchedulerState, r: int) -> bool:
    """Whether a running request holds the KV blocks of all it is known to need, as admission gives them."""
    request = s.requests[r]
    return bool(request.blocks >= blocks_for(request.prompt + request.generated, s.clock[0].block_size))


@kernel
def can_serve(s: SchedulerState) -> bool:
    """Whether calendars can serve the limits in force.

    The largest step must fit into memory, since a step that fails is undone request by request.
    """
    c = s.clock[0]
    limits = s.limits[0]
    if c.mode != CONTINUOUS or c.prefill == SELECTIVE or c.discipline == PRIORITY or c.block_size > len(s.slots):
        return False
    if limits.discipline != c.discipline or limits.speculative_tokens > 0:
        return False
    kv_mb = c.total_blocks * c.block_size * c.kv_mb_per_token
    return bool(c.total_mb == 0 or c.fixed_mb + kv_mb + limits.token_budget * c.activation_mb_per_token <= c.total_mb)


@kernel
def open_calendars(s: SchedulerState) -> bool:
    """Go over to calendars where they can serve; returns whether that was done."""
    c = s.clock[0]
    if c.step < c.decoding_pause or not can_serve(s):
        return False
    most = most_decoding(s)
    for k in range(c.n_running):
        r = s.slots[k].running
        if not decodes(s, r) and (not has_its_blocks(s, r) or (c.n_running > most and need(s, r) == 1)):
            return False
    c.decoding = 1
    c.n_order = 0
    c.n_prefilling = 0
    c.n_decoding = 0
    c.n_held = 0
    c.decode_context = 0
    for phase in range(c.block_size):
        s.slots[phase].asking = 0
    for k in range(c.n_running):
        r = s.slots[k].running
        if not decodes(s, r):
            start(s, r)
            continue
        s.slots[c.n_order].order = r
        s.slots[r].position = c.n_order
        if c.n_decoding < most:
            join(s, r)
        else:
            if c.n_held == 0:
                c.first_held = c.n_order
            c.n_held += 1
        c.n_order += 1
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
def follow_limits(s: SchedulerState) -> None:
    """Limits may have changed while calendars were open: those that do not serve them, or hold too many, are closed."""
    c = s.clock[0]
    if c.decoding and can_serve(s) and c.n_decoding <= most_decoding(s):
        let_in_held(s)
    elif c.decoding:
        close_calendars(s)
