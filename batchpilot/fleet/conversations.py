"""Turns of conversations in a fleet: each comes its think time after the answer to the one before. Compiled, unchecked.

The turns whose time is known wait in a heap of their own (`TALK`). No replica runs a step that begins after the
next of them is due, or after an answer of another replica may make one due: the replica whose turn is first goes first,
a step, or as many as it decodes undisturbed.
"""

from __future__ import annotations

import math

import numpy as np

from batchpilot.engines.scheduler.admission import next_arrival_ms
from batchpilot.engines.scheduler.state import LENGTH, STATIC, SchedulerState, row
from batchpilot.engines.simulated.kernel import STUCK, decode_on, run_steps
from batchpilot.fleet.arrays import ALL_ROUTED, BROKEN_OFF, STUCK_FLEET, WHOLE, FleetArrays
from batchpilot.latency.model.compiled import allocating, kernel


@kernel
def is_sooner(f: FleetArrays, a: int, b: int) -> bool:
    """Whether turn `a` comes before turn `b`."""
    at_ms, other_ms = f.incoming[a].arrival_ms, f.incoming[b].arrival_ms
    return bool(at_ms < other_ms or (at_ms == other_ms and a < b))


@kernel
def expect(f: FleetArrays, r: int, at_ms: float) -> None:
    """A turn's time is known from now on."""
    f.incoming[r].arrival_ms = at_ms
    i = f.routing[0].n_coming
    f.routing[0].n_coming += 1
    while i > 0 and is_sooner(f, r, f.talks[(i - 1) >> 1].coming):
        f.talks[i].coming = f.talks[(i - 1) >> 1].coming
        i = (i - 1) >> 1
    f.talks[i].coming = r


@kernel
def take_coming(f: FleetArrays) -> int:
    """The turn whose time is next comes."""
    c = f.routing[0]
    r = f.talks[0].coming
    c.n_coming -= 1
    last = f.talks[c.n_coming].coming
    i = 0
    while 2 * i + 1 < c.n_coming:
        child = 2 * i + 1
        if child + 1 < c.n_coming and is_sooner(f, f.talks[child + 1].coming, f.talks[child].coming):
            child += 1
        if is_sooner(f, last, f.talks[child].coming):
            break
        f.talks[i].coming = f.talks[child].coming
        i = child
    f.talks[i].coming = last
    f.talks[c.next].came = r
    c.next += 1
    return int(r)


@kernel
def due_ms(f: FleetArrays) -> float:
    """When the next turn comes that is known of, infinity for none."""
    return float(f.incoming[f.talks[0].coming].arrival_ms) if f.routing[0].n_coming > 0 else math.inf


@kernel
def break_off(f: FleetArrays, r: int, reason: int, now_ms: float) -> None:
    """A turn was not answered: the later ones are never asked, and end for its reason."""
    following = f.talks[r].following
    while following >= 0 and f.where[following, 2] != BROKEN_OFF:
        f.where[following, 2] = BROKEN_OFF
        f.incoming[following].reason = reason
        f.incoming[following].finish_ms = now_ms
        following = f.talks[following].following


@kernel
def settle(s: SchedulerState, f: FleetArrays, i: int, place: int) -> None:
    """A request at a place of a replica has ended: its conversation goes on, or breaks off."""
    r = f.names[i, place]
    if f.where[r, 0] != i or f.where[r, 1] != place:
        return
    ended = s.requests[i, place]
    if ended.reason != LENGTH:
        break_off(f, r, ended.reason, ended.finish_ms)
    elif f.talks[r].following >= 0:
        following = f.talks[r].following
        expect(f, following, ended.finish_ms + f.talks[following].think_ms)


@kernel
def go_on(s: SchedulerState, f: FleetArrays, i: int) -> None:
    """See who ended in a replica since somebody last did: their conversations go on, or break off.

    Those that were taken from it, to be answered elsewhere, have not ended.
    """
    c = s.clock[i]
    for k in range(f.links[i].seen, c.n_ended):
        settle(s, f, i, s.slots[i, k % s.slots.shape[1]].ended)
    f.links[i].seen = c.n_ended


@kernel
def has_work(s: SchedulerState, i: int) -> bool:
    """Whether somebody runs or waits in a replica, or is about to reach it."""
    c = s.clock[i]
    return bool(c.n_running > 0 or c.n_queue > 0 or c.next_arrival < c.n_requests)


@kernel
def turn_ms(s: SchedulerState, f: FleetArrays, i: int) -> float:
    """When a replica can next do something; infinity where nothing that is known gives it anything to do."""
    if f.views[i].on == 0 or f.views[i].dead == 1 or not has_work(s, i):
        return math.inf
    return float(max(f.links[i].wake_ms, s.clock[i].now_ms))


@allocating
def take_turn(s: SchedulerState, f: FleetArrays, i: int, now_ms: float, until_ms: float) -> bool:
    """A replica runs a step, or several of decoding that begin before a time; False if it is stuck."""
    c = s.clock[i]
    c.now_ms = now_ms
    one = row(s, i)
    least_ms = np.nextafter(now_ms, math.inf)
    if not (c.decoding and decode_on(one, until_ms) > 0) and run_steps(one, least_ms) == STUCK:
        return False
    go_on(s, f, i)
    f.links[i].wake_ms = 0.0
    if c.now_ms <= least_ms:  # nothing could be done yet
        f.links[i].wake_ms = min(next_arrival_ms(one), c.wake_ms) if c.mode == STATIC else next_arrival_ms(one)
    return True


@allocating
def advance_conversations(s: SchedulerState, f: FleetArrays, until_ms: float) -> int:
    """Run every replica up to a time, or up to the next turn where that is sooner.

    Returns:
        ALL_ROUTED or STUCK_FLEET.
    """
    while True:
        stop_ms = min(until_ms, due_ms(f))
        best, best_ms, next_ms = -1, math.inf, math.inf
        for i in range(len(f.views)):
            at_ms = turn_ms(s, f, i)
            if at_ms < best_ms:
                best, best_ms, next_ms = i, at_ms, best_ms
            elif at_ms < next_ms:
                next_ms = at_ms
        if best_ms >= stop_ms:
            break
        if not take_turn(s, f, best, best_ms, min(stop_ms, next_ms)):
            return STUCK_FLEET
    for i in range(len(f.views)):
        if f.views[i].on == 1 and f.views[i].dead == 0 and s.clock[i].now_ms < stop_ms < math.inf:
            s.clock[i].now_ms = stop_ms
    return ALL_ROUTED


@kernel
def is_awaited(s: SchedulerState, f: FleetArrays) -> bool:
    """Whether a turn may still come: its time is known, or a replica that serves whole requests answers somebody."""
    awaited = f.routing[0].n_coming > 0
    for i in range(len(f.views)):
        awaited = awaited or (f.links[i].role == WHOLE and turn_ms(s, f, i) < math.inf)
    return bool(awaited)
