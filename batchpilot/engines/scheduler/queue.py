"""The waiting queue: a binary heap of request ids by key, and the key of every discipline. Compiled, unchecked.

A key is computed once, on arrival; a preempted request returns with the key it had. Ties go to the earlier request.
"""

from __future__ import annotations

from batchpilot.engines.scheduler.state import UNFINISHED, SchedulerState
from batchpilot.latency.model.compiled import kernel
from batchpilot.latency.model.saturation import step_ms

FCFS, SJF, SPF, SLO_AWARE, FAIR, PRIORITY = range(6)
_PRIORITY_STRIDE_MS = 1e12


@kernel
def sooner(s: SchedulerState, a: int, b: int) -> bool:
    """Whether request `a` goes before `b`."""
    return s.requests[a].key < s.requests[b].key or (s.requests[a].key == s.requests[b].key and a < b)


@kernel
def key_on_arrival(s: SchedulerState, r: int) -> float:
    """The request's key under the discipline in force; a smaller key is served sooner.

    FCFS: arrival. SJF: estimated output tokens. SPF: prompt tokens. SLO-aware: the latest start that still meets the
    TTFT target, so that ordering by it is ordering by slack at any moment. Fair: start-time fair queueing, the virtual
    time at which the user's share reaches this request. Priority: class first, then arrival.
    """
    c = s.clock[0]
    if c.discipline == SJF:
        return s.requests[r].estimated_output
    if c.discipline == SPF:
        return float(s.requests[r].prompt)
    if c.discipline == SLO_AWARE:
        return (
            s.requests[r].arrival_ms
            + s.requests[r].ttft_target_ms
            - step_ms(s.parameters[0, 1:], 1.0, float(s.requests[r].prompt), 0.0)
        )
    if c.discipline == FAIR:
        start = max(c.virtual_time, s.user_finish[s.requests[r].user])
        s.user_finish[s.requests[r].user] = start + s.requests[r].prompt + s.requests[r].estimated_output
        return start
    if c.discipline == PRIORITY:
        return s.requests[r].priority * _PRIORITY_STRIDE_MS + s.requests[r].arrival_ms
    return s.requests[r].arrival_ms


@kernel
def rise(s: SchedulerState, i: int, r: int) -> None:
    """Put a request at place `i` of the heap, or above it where those are later than it."""
    while i > 0:
        parent = (i - 1) >> 1
        if sooner(s, s.slots[parent].waiting, r):
            break
        s.slots[i].waiting = s.slots[parent].waiting
        i = parent
    s.slots[i].waiting = r


@kernel
def sink(s: SchedulerState, i: int, r: int) -> int:
    """Put a request at place `i` of the heap, or below it where those are sooner than it; returns its place."""
    n = s.clock[0].n_queue
    while True:
        child = 2 * i + 1
        if child >= n:
            break
        if child + 1 < n and sooner(s, s.slots[child + 1].waiting, s.slots[child].waiting):
            child += 1
        if sooner(s, r, s.slots[child].waiting):
            break
        s.slots[i].waiting = s.slots[child].waiting
        i = child
    s.slots[i].waiting = r
    return i


@kernel
def push(s: SchedulerState, r: int) -> None:
    """Add a request to the waiting queue."""
    c = s.clock[0]
    c.n_queue += 1
    c.queued_tokens += s.requests[r].prompt
    rise(s, c.n_queue - 1, r)


@kernel
def pop(s: SchedulerState) -> int:
    """Take the request that is next; the queue must not be empty."""
    c = s.clock[0]
    top = s.slots[0].waiting
    c.n_queue -= 1
    c.queued_tokens -= s.requests[top].prompt
    sink(s, 0, s.slots[c.n_queue].waiting)
    return top


@kernel
def take_out(s: SchedulerState, r: int) -> None:
    """Remove a waiting request from wherever it is in the queue."""
    c = s.clock[0]
    place = 0
    while s.slots[place].waiting != r:
        place += 1
    c.n_queue -= 1
    c.queued_tokens -= s.requests[r].prompt
    if place < c.n_queue:
        # The last one fills the gap; it may belong above it as well as below.
        last = s.slots[c.n_queue].waiting
        rise(s, sink(s, place, last), last)


@kernel
def change_discipline(s: SchedulerState, discipline: int) -> None:
    """Give every waiting and running request the key of another discipline, as if it had arrived under it."""
    c = s.clock[0]
    c.discipline = discipline
    c.virtual_time = 0.0
    s.user_finish[:] = 0.0
    for r in range(c.next_arrival):
        if s.requests[r].reason == UNFINISHED:
            s.requests[r].key = key_on_arrival(s, r)
    n = c.n_queue
    c.n_queue = 0
    c.queued_tokens = 0
    for k in range(n):
        # The heap grows from the front, so the ids behind it are still to be read.
        push(s, s.slots[k].waiting)
