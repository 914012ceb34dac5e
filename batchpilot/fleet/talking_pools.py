"""Conversations in pools: prefill and decode on replicas of their own, each turn after the answer to the one before.

What begins next goes first: KV that comes, a step of a pool, a step of a replica that does both; nothing begins after
the next turn is due. A replica that decodes runs a step at a time, since each may end an answer. Compiled, unchecked.
"""

from __future__ import annotations

import math

from batchpilot.engines.scheduler.state import SchedulerState
from batchpilot.fleet import conversations, handover
from batchpilot.fleet.arrays import ALL_ROUTED, COUNT, FIRST, MOVING, NO_ROOM, STUCK_FLEET, WHOLE, FleetArrays
from batchpilot.latency.model.compiled import allocating, kernel


@kernel
def next_whole(s: SchedulerState, f: FleetArrays) -> int:
    """The replica whose turn is next among those that prefill and decode, -1 for none."""
    best = -1
    best_ms = math.inf
    for i in range(len(f.views)):
        if f.links[i].role == WHOLE:
            at_ms = conversations.turn_ms(s, f, i)
            if at_ms < best_ms:
                best, best_ms = i, at_ms
    return best


@kernel
def next_end_ms(f: FleetArrays) -> float:
    """When KV comes next, infinity for none."""
    to = handover.next_delivery(f)
    return float(f.handovers[f.lines[MOVING, to, FIRST]].end_ms) if to >= 0 else math.inf


@kernel
def is_awaited(s: SchedulerState, f: FleetArrays) -> bool:
    """Whether a turn may still come: its time is known, or somebody is being answered, or on the way to be."""
    if conversations.is_awaited(s, f) or handover.next_delivery(f) >= 0:
        return True
    i = handover.next_turn(s, f)
    return bool(i >= 0 and handover.turn_ms(s, f, i) < math.inf)


@allocating
def advance_talking_pools(s: SchedulerState, f: FleetArrays, until_ms: float) -> int:
    """Run every replica up to a time, or up to the next turn where that is sooner.

    Returns:
        ALL_ROUTED, NO_ROOM or STUCK_FLEET.
    """
    while True:
        if f.routing[0].fullest == s.requests.shape[1]:
            return NO_ROOM
        stop_ms = min(until_ms, conversations.due_ms(f))
        end_ms = next_end_ms(f)
        pooled, whole = handover.next_turn(s, f), next_whole(s, f)
        pooled_ms = handover.turn_ms(s, f, pooled) if pooled >= 0 else math.inf
        whole_ms = conversations.turn_ms(s, f, whole) if whole >= 0 else math.inf
        if min(end_ms, pooled_ms, whole_ms) >= stop_ms:
            break
        if end_ms <= min(pooled_ms, whole_ms):
            handover.deliver(s, f, handover.next_delivery(f))
        elif pooled_ms <= whole_ms:
            handover.take_turn(s, f, pooled, pooled_ms, pooled_ms)
        elif not conversations.take_turn(s, f, whole, whole_ms, whole_ms):
            return STUCK_FLEET
    for i in range(len(f.views)):
        c = s.clock[i]
        if f.views[i].on == 0 or f.views[i].dead == 1 or c.now_ms >= stop_ms:
            continue
        if stop_ms < math.inf:
            c.now_ms = stop_ms
        elif c.n_running + c.n_queue + f.lines[:, i, COUNT].sum() > 0:
            return STUCK_FLEET
    return ALL_ROUTED
