"""Prefill and decode on replicas of their own: KV is kept, moved and taken over. Compiled, unchecked.

A user's request is two of the scheduler's. The first ends with its first token, on a replica that prefills, which goes
on holding its KV blocks. The second comes to a replica that decodes when the KV has moved there, with its prompt
computed and one token said, so that it needs a block for the next token and nothing else. A step of either begins
when every earlier step of the others is known: the replica whose turn is first goes first.

KV moves as soon as the replica that decodes has blocks for it and a place in its batch, first come first served; they
are looked for when a step begins there, and set aside until the KV has come. Blocks that its prefix cache has are held
from then on, too, and only the others are moved, as vLLM's NIXL connector does it; what has come is cached at once. A
link moves one request's KV at a time, at either end: two at once would share the same wire, and neither would come
sooner. Without room the request waits and its blocks stay where they are, so a full pool of decoders soon stops the
prompts, too.
"""

from __future__ import annotations

import math

import numpy as np

from batchpilot.engines.scheduler.admission import next_arrival_ms
from batchpilot.engines.scheduler.kv_blocks import blocks_for, blocks_needed, claim, release, take
from batchpilot.engines.scheduler.prefix_cache import hold_cached, leading, look_up, share
from batchpilot.engines.scheduler.state import FAILED, LENGTH, UNFINISHED, SchedulerState, row
from batchpilot.engines.simulated.kernel import run_steps
from batchpilot.fleet.arrays import (
    ALL_ROUTED,
    COUNT,
    DECODE,
    DECODES,
    FIRST,
    HANDED,
    LAST,
    MADE,
    MOVING,
    NO_ROOM,
    NOT_HANDED,
    PLACED,
    PREFILL,
    STUCK_FLEET,
    WAITING,
    WHOLE,
    FleetArrays,
)
from batchpilot.fleet.conversations import break_off, go_on, settle
from batchpilot.fleet.routing import look, reachable
from batchpilot.latency.model.compiled import allocating, kernel


@kernel
def bound(f: FleetArrays, i: int) -> int:
    """Requests that are bound for a replica and not in its row yet."""
    return int(f.lines[WAITING, i, COUNT] + f.lines[MOVING, i, COUNT])


@kernel
def put_last(f: FleetArrays, stage: int, i: int, r: int) -> None:
    """A request enters a line of a replica."""
    f.handovers[r].next = -1
    f.handovers[r].stage = stage
    if f.lines[stage, i, COUNT] == 0:
        f.lines[stage, i, FIRST] = r
    else:
        f.handovers[f.lines[stage, i, LAST]].next = r
    f.lines[stage, i, LAST] = r
    f.lines[stage, i, COUNT] += 1


@kernel
def take_first(f: FleetArrays, stage: int, i: int) -> int:
    """The first request of a line leaves it."""
    r = f.lines[stage, i, FIRST]
    f.lines[stage, i, FIRST] = f.handovers[r].next
    f.lines[stage, i, COUNT] -= 1
    return int(r)


@kernel
def wake(f: FleetArrays, i: int, at_ms: float) -> None:
    """A replica has something to do from a time on."""
    f.links[i].wake_ms = min(f.links[i].wake_ms, at_ms)


@allocating
def let_go(s: SchedulerState, f: FleetArrays, r: int, reason: int, now_ms: float) -> None:
    """The replica that prefilled a request keeps its KV no longer from now on; its part has ended."""
    handover = f.handovers[r]
    source = handover.source
    release(row(s, source), handover.place)
    s.requests[source, handover.place].reason = reason
    s.requests[source, handover.place].finish_ms = now_ms
    if reason != LENGTH and f.routing[0].conversing == 1:
        break_off(f, r, reason, now_ms)
    wake(f, source, now_ms)


@kernel
def hold_again(s: SchedulerState, r: int) -> None:
    """A prompt that was just computed holds its blocks again, before anybody could have taken them."""
    c = s.clock[0]
    blocks = blocks_for(s.requests[r].prompt, c.block_size)
    s.requests[r].blocks = blocks
    if c.prefix_cache:
        found = leading(s, r, min(s.chains[r].hashed, s.requests[r].prompt // c.block_size), 0)
        s.requests[r].computed = found * c.block_size
        hold_cached(s, r)
        blocks -= found
    take(s, blocks)


@allocating
def keep_finished(s: SchedulerState, f: FleetArrays, i: int) -> None:
    """Prompts that a replica finished in its last step keep their blocks, which nobody can have taken yet."""
    c = s.clock[i]
    one = row(s, i)
    for k in range(f.links[i].seen, c.n_ended):
        place = s.slots[i, k % s.slots.shape[1]].ended
        r = f.names[i, place]
        if s.requests[i, place].reason != LENGTH or f.incoming[r].output == 1:
            if f.routing[0].conversing == 1:
                settle(s, f, i, place)
            continue
        s.requests[i, place].reason = UNFINISHED
        s.requests[i, place].finish_ms = math.nan
        handover = f.handovers[r]
        handover.source = i
        handover.place = place
        handover.ready_ms = s.requests[i, place].first_ms
        hold_again(one, place)
        put_last(f, MADE, i, r)
    f.links[i].seen = c.n_ended


@allocating
def look_at_decoders(s: SchedulerState, f: FleetArrays, now_ms: float) -> None:
    """See those that decode as they are, if a poll has passed since the last time: at the first handover after it."""
    c = f.routing[0]
    if now_ms < c.next_handover_poll_ms:
        return
    if c.poll_ms > 0:
        c.next_handover_poll_ms = (math.floor(now_ms / c.poll_ms) + 1) * c.poll_ms
    for i in range(len(f.views)):
        if f.links[i].role == DECODE and f.views[i].on == 1 and f.views[i].dead == 0:
            look(row(s, i), f.views[i], False)
            f.views[i].requests += bound(f, i)


@allocating
def bind(s: SchedulerState, f: FleetArrays, r: int, now_ms: float) -> None:
    """Find a replica that decodes a request whose prompt is done; where there is none, or it is too small, it fails."""
    c = f.routing[0]
    look_at_decoders(s, f, now_ms)
    tier = int(f.views[f.handovers[r].source].tier) + DECODES
    i = reachable(f, r, tier, now_ms)
    fits = False
    if i >= 0:
        clock = s.clock[i]
        length = f.incoming[r].prompt + f.incoming[r].output
        fits = length <= clock.max_model_len and blocks_for(length - 1, clock.block_size) <= clock.total_blocks
    if not fits:
        f.handovers[r].stage = NOT_HANDED
        let_go(s, f, r, FAILED, now_ms)
        return
    f.handovers[r].target = i
    put_last(f, WAITING, i, r)
    wake(f, i, now_ms)
    if c.counts_sent == 1:
        f.views[i].sent += 1


@kernel
def write_handed(s: SchedulerState, f: FleetArrays, i: int, r: int) -> int:
    """Write a request as it will be where it is decoded into the first free place there; returns that place."""
    place = s.clock[i].n_requests
    s.requests[i, place] = f.incoming[r]
    request = s.requests[i, place]
    request.computed = request.prompt
    request.cached = request.prompt
    request.generated = 1
    request.admitted = 1
    if s.clock[i].prefix_cache:
        s.chains[i, place] = f.chains[f.views[i].kind, r]
        s.chains[i, place].shared = f.handovers[r].shared
    return int(place)


@allocating
def set_aside(s: SchedulerState, f: FleetArrays, i: int, r: int) -> bool:
    """Hold blocks for a request where it will be decoded, those in the prefix cache there first; False without room."""
    c = s.clock[i]
    handover = f.handovers[r]
    handover.shared = 0
    if not c.prefix_cache:
        blocks = blocks_for(f.incoming[r].prompt + 1, c.block_size)
        if blocks > c.free_blocks:
            return False
        c.free_blocks -= blocks
        handover.blocks = blocks
        return True
    place = write_handed(s, f, i, r)
    one = row(s, i)
    look_up(one, place)
    if blocks_needed(one, place) > c.free_blocks:
        return False
    claim(one, place)
    handover.blocks = s.requests[i, place].blocks
    handover.shared = s.chains[i, place].shared
    return True


@allocating
def free_again(s: SchedulerState, f: FleetArrays, r: int) -> None:
    """Blocks that are held for a request where it should have been decoded are free again: its KV does not come."""
    handover = f.handovers[r]
    i = handover.target
    place = write_handed(s, f, i, r)
    s.requests[i, place].blocks = handover.blocks
    s.requests[i, place].computed = handover.shared * s.clock[i].block_size
    release(row(s, i), place)


@allocating
def start_moving(s: SchedulerState, f: FleetArrays, i: int, now_ms: float) -> None:
    """KV that waits for a replica begins to move, as far as there is room; what is cached there stays where it is."""
    c = s.clock[i]
    while f.lines[WAITING, i, COUNT] > 0:
        r = f.lines[WAITING, i, FIRST]
        inside = c.n_running + c.n_queue + c.n_requests - c.next_arrival + f.lines[MOVING, i, COUNT]
        if inside >= s.limits[i].batch_size or not set_aside(s, f, i, r):
            return
        take_first(f, WAITING, i)
        handover = f.handovers[r]
        begin_ms = max(now_ms, f.links[i].free_ms, f.links[handover.source].free_ms)
        missing = f.incoming[r].prompt - handover.shared * c.block_size
        sent_ms = begin_ms + missing * f.routing[0].ms_per_token
        f.links[i].free_ms = sent_ms
        f.links[handover.source].free_ms = sent_ms
        handover.end_ms = sent_ms + f.routing[0].latency_ms
        put_last(f, MOVING, i, r)


@allocating
def deliver(s: SchedulerState, f: FleetArrays, i: int) -> None:
    """The KV that comes next to a replica has come: its request arrives there."""
    r = take_first(f, MOVING, i)
    handover = f.handovers[r]
    handover.stage = HANDED
    let_go(s, f, r, LENGTH, handover.end_ms)
    c = s.clock[i]
    place = write_handed(s, f, i, r)
    c.n_requests += 1
    f.routing[0].fullest = max(f.routing[0].fullest, c.n_requests)
    request = s.requests[i, place]
    request.arrival_ms = handover.end_ms
    request.first_ms = handover.ready_ms
    if c.prefix_cache:
        request.blocks = handover.blocks
        share(row(s, i), place, request.prompt)
    else:
        c.free_blocks += handover.blocks
    f.names[i, place] = r
    f.where[r, 0] = i
    f.where[r, 1] = place
    f.where[r, 2] = PLACED
    wake(f, i, handover.end_ms)


@kernel
def next_delivery(f: FleetArrays) -> int:
    """The replica to which KV comes next, -1 for none."""
    best = -1
    for i in range(len(f.views)):
        if f.lines[MOVING, i, COUNT] > 0:
            end_ms = f.handovers[f.lines[MOVING, i, FIRST]].end_ms
            if best < 0 or end_ms < f.handovers[f.lines[MOVING, best, FIRST]].end_ms:
                best = i
    return best


@kernel
def turn_ms(s: SchedulerState, f: FleetArrays, i: int) -> float:
    """When a replica of a pool can next do something; infinity where nothing that is known gives it anything to do."""
    if f.links[i].role == WHOLE or f.views[i].on == 0 or f.views[i].dead == 1:
        return math.inf
    return float(max(f.links[i].wake_ms, s.clock[i].now_ms))


@kernel
def next_turn(s: SchedulerState, f: FleetArrays) -> int:
    """The replica whose turn is next, those that prefill first; -1 for none."""
    best = -1
    best_ms = math.inf
    for i in range(len(f.views)):
        at_ms = turn_ms(s, f, i)
        ahead = at_ms == best_ms and best >= 0 and f.links[i].role < f.links[best].role
        if at_ms < best_ms or ahead:
            best, best_ms = i, at_ms
    return best


@kernel
def undisturbed_ms(s: SchedulerState, f: FleetArrays, i: int, until_ms: float) -> float:
    """How far a replica that decodes may run before another could send it something, or it has to look for room."""
    if f.lines[WAITING, i, COUNT] > 0:
        return 0.0
    for k in range(len(f.views)):
        if f.lines[MOVING, k, COUNT] > 0:
            until_ms = min(until_ms, f.handovers[f.lines[MOVING, k, FIRST]].end_ms)
        if k != i and (f.links[k].role == PREFILL or f.lines[WAITING, k, COUNT] > 0):
            until_ms = min(until_ms, turn_ms(s, f, k))
    return until_ms


@allocating
def take_turn(s: SchedulerState, f: FleetArrays, i: int, now_ms: float, until_ms: float) -> None:
    """A replica hands over what it has made, or takes what it has room for, and runs a step, or several of decoding."""
    c = s.clock[i]
    link = f.links[i]
    c.now_ms = now_ms
    least_ms = np.nextafter(now_ms, math.inf)
    if link.role == PREFILL:
        until_ms = least_ms
        while f.lines[MADE, i, COUNT] > 0:
            bind(s, f, take_first(f, MADE, i), now_ms)
    else:
        if f.lines[WAITING, i, COUNT] > 0:
            start_moving(s, f, i, now_ms)
        until_ms = max(undisturbed_ms(s, f, i, until_ms), least_ms)
    link.wake_ms = math.inf
    if c.n_running == 0 and c.n_queue == 0 and c.next_arrival == c.n_requests:
        return
    one = row(s, i)
    run_steps(one, until_ms)
    if link.role == PREFILL:
        keep_finished(s, f, i)
    elif f.routing[0].conversing == 1:
        go_on(s, f, i)
    link.wake_ms = c.now_ms if c.now_ms > least_ms else next_arrival_ms(one)


@allocating
def advance_pools(s: SchedulerState, f: FleetArrays, until_ms: float) -> int:
    """Run the replicas of pools up to a time.

    Returns:
        ALL_ROUTED, NO_ROOM or STUCK_FLEET.
    """
    while True:
        if f.routing[0].fullest == s.requests.shape[1]:
            return NO_ROOM
        to = next_delivery(f)
        end_ms = f.handovers[f.lines[MOVING, to, FIRST]].end_ms if to >= 0 else math.inf
        i = next_turn(s, f)
        at_ms = turn_ms(s, f, i) if i >= 0 else math.inf
        if min(end_ms, at_ms) >= until_ms:
            break
        if end_ms <= at_ms:
            deliver(s, f, to)
        else:
            take_turn(s, f, i, at_ms, until_ms)
    for i in range(len(f.views)):
        c = s.clock[i]
        if f.links[i].role == WHOLE or f.views[i].on == 0 or f.views[i].dead == 1 or c.now_ms >= until_ms:
            continue
        if until_ms < math.inf:
            c.now_ms = until_ms
        elif c.n_running + c.n_queue + bound(f, i) > 0:
            return STUCK_FLEET
    return ALL_ROUTED
