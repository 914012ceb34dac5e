"""Replicas under one event loop: arrivals are routed in their order, replicas run up to them. Compiled, unchecked.

Each replica is a row of one scheduler state and runs by the scheduler's own loop. A replica is looked at when the
router polls, or at every arrival where the view is fresh; in between nobody needs to know how far it has come, unless
turns follow answers.
"""

from __future__ import annotations

import math
from typing import Any

from batchpilot.engines.scheduler.calendars import close_calendars
from batchpilot.engines.scheduler.state import REFUSED_ARRIVAL, SchedulerState, row
from batchpilot.engines.simulated.kernel import STUCK, run_steps
from batchpilot.fleet import rules, talking_pools
from batchpilot.fleet.arrays import ALL_ROUTED, DECODE, LIMITED, NO_ROOM, STUCK_FLEET, WHOLE, FleetArrays
from batchpilot.fleet.conversations import advance_conversations, break_off, due_ms, is_awaited, take_coming
from batchpilot.fleet.handover import advance_pools
from batchpilot.fleet.routing import bucket_allows, look, place
from batchpilot.latency.model.compiled import allocating


@allocating
def advance_replica(s: SchedulerState, views: Any, i: int, until_ms: float) -> bool:
    """Run a replica up to a time; False if it is stuck. One that is idle only moves its clock."""
    clock = s.clock[i]
    if clock.now_ms >= until_ms or views[i].dead == 1:
        return True
    if clock.n_running == 0 and clock.n_queue == 0 and clock.next_arrival == clock.n_requests and until_ms < math.inf:
        clock.now_ms = until_ms
        return True
    return run_steps(row(s, i), until_ms) != STUCK


@allocating
def advance(s: SchedulerState, f: FleetArrays, until_ms: float) -> int:
    """Run every replica up to a time, each for itself but those of pools, which wait for one another."""
    code = ALL_ROUTED
    for i in range(len(f.views)):
        if f.views[i].on == 1 and f.links[i].role == WHOLE and not advance_replica(s, f.views, i, until_ms):
            code = STUCK_FLEET
    if code == ALL_ROUTED and f.routing[0].pooled == 1:
        code = advance_pools(s, f, until_ms)
    return code


@allocating
def look_at_all(s: SchedulerState, f: FleetArrays, now_ms: float) -> int:
    """Advance every replica to a time and look at it; returns as `run_fleet` does."""
    code = advance(s, f, now_ms)
    if code == ALL_ROUTED:
        see_all(s, f)
    return code


@allocating
def see_all(s: SchedulerState, f: FleetArrays) -> None:
    """Look at every replica as it is."""
    c = f.routing[0]
    views = f.views
    estimating = c.rule in (rules.PREDICTED_TTFT, rules.PREFIX) or c.degrade_ttft_ms < math.inf
    for i in range(len(views)):
        if views[i].on == 1 and views[i].dead == 0 and f.links[i].role != DECODE:
            look(row(s, i), views[i], estimating)


@allocating
def run_conversations(s: SchedulerState, f: FleetArrays, until_ms: float) -> int:
    """`run_fleet` where turns follow answers: polls and turns happen one by one, each when all before it is known."""
    c = f.routing[0]
    while True:
        if c.fullest == s.requests.shape[1]:
            return NO_ROOM
        awaited = talking_pools.is_awaited(s, f) if c.pooled == 1 else is_awaited(s, f)
        polling = c.poll_ms > 0 and c.next_poll_ms < until_ms and awaited
        stop_ms = c.next_poll_ms if polling else until_ms
        if c.pooled == 1:
            code = talking_pools.advance_talking_pools(s, f, stop_ms)
        else:
            code = advance_conversations(s, f, stop_ms)
        if code != ALL_ROUTED:
            return code
        now_ms = due_ms(f)
        if now_ms < stop_ms:
            if c.poll_ms == 0:
                see_all(s, f)
            r = take_coming(f)
            request = f.incoming[r]
            if bucket_allows(f.buckets[request.user], request.prompt + request.estimated_output, now_ms):
                place(s, f, r, now_ms)
            else:
                f.where[r, 2] = LIMITED
                break_off(f, r, REFUSED_ARRIVAL, now_ms)
        elif polling:
            see_all(s, f)
            c.next_poll_ms += c.poll_ms
        else:
            return ALL_ROUTED


@allocating
def run_fleet(s: SchedulerState, f: FleetArrays, until_ms: float) -> int:
    """Route what arrives before a time, and run every replica up to it.

    Args:
        s: a row a replica.
        f: the router's; where requests went is written into it.
        until_ms: engine time, infinity to run until everything has ended.

    Returns:
        ALL_ROUTED, NO_ROOM or STUCK_FLEET.
    """
    c = f.routing[0]
    if c.conversing == 1:
        code = run_conversations(s, f, until_ms)
        for i in range(len(f.views)):
            if s.clock[i].decoding:
                close_calendars(row(s, i))
        return code
    while c.next < len(f.incoming) and f.incoming[c.next].arrival_ms < until_ms:
        if c.fullest == s.requests.shape[1]:
            return NO_ROOM
        request = f.incoming[c.next]
        now_ms = request.arrival_ms
        if c.poll_ms > 0:
            while c.next_poll_ms <= now_ms:
                code = look_at_all(s, f, c.next_poll_ms)
                if code != ALL_ROUTED:
                    return code
                c.next_poll_ms += c.poll_ms
        else:
            code = look_at_all(s, f, now_ms)
            if code != ALL_ROUTED:
                return code
        if bucket_allows(f.buckets[request.user], request.prompt + request.estimated_output, now_ms):
            place(s, f, c.next, now_ms)
        else:
            f.where[c.next, 2] = LIMITED
        c.next += 1
    code = advance(s, f, until_ms)
    for i in range(len(f.views)):
        if s.clock[i].decoding:
            close_calendars(row(s, i))
    return code
