"""Lines: who of the waiting is next, who of them becomes hopeless next, which turns come next. Compiled, unchecked.

All are binary heaps of request ids. A key is computed once, on arrival; a preempted request returns with the key it
had, and is in the first line only. Ties go to the earlier request.
"""

from __future__ import annotations

import math

from batchpilot.core.limits import DEADLINE_MS_PER_TOKEN
from batchpilot.core.refusals import PROMOTED
from batchpilot.engines.scheduler.images import least_encode_ms, lone_encode_ms
from batchpilot.engines.scheduler.prefix_cache import look_up
from batchpilot.engines.scheduler.refusals import goes_first
from batchpilot.engines.scheduler.state import UNFINISHED, SchedulerState
from batchpilot.latency.model.compiled import kernel
from batchpilot.latency.model.saturation import step_ms

TURN, DUE, COMING = range(3)

FCFS, SJF, SPF, SLO_AWARE, FAIR, PRIORITY, DEADLINE, VISION, VALUE = range(9)
_PRIORITY_STRIDE_MS = 1e12

_LAST = 1.7e308
"""No key is above it but that of who is held."""

_RELEGATED_MS = 1e15
"""Added to the key of who can no longer be served in time, under the deadline discipline."""


@kernel
def sooner(s: SchedulerState, a: int, b: int) -> bool:
    """Whether request `a` goes before `b`: none that is held before one that is not, then by key."""
    if s.requests[a].held != s.requests[b].held:
        return bool(s.requests[a].held < s.requests[b].held)
    return s.requests[a].key < s.requests[b].key or (s.requests[a].key == s.requests[b].key and a < b)


@kernel
def key_on_arrival(s: SchedulerState, r: int) -> float:
    """The request's key under the discipline in force, put first if its quarter of lengths is refused too often."""
    key = key_of_discipline(s, r)
    if s.clock[0].discipline in (PRIORITY, DEADLINE, VISION) or not goes_first(s, r):
        return key
    return key - PROMOTED


@kernel
def key_of_discipline(s: SchedulerState, r: int) -> float:
    """The request's key under the discipline in force; a smaller key is served sooner.

    FCFS: arrival. SJF: estimated output tokens. SPF: prompt tokens, cached ones aside. SLO-aware: the latest start that
    still meets the TTFT target, so that ordering by it is ordering by slack at any moment. Fair: start-time fair
    queueing, the virtual time at which the user's share, by its weight, reaches this request. Priority: class first,
    then arrival. Deadline: when the first token is due, put off by the prompt's length, so that under load short
    prompts go first. Vision: as priority, until `vision.py` gives its queue a turn. Value: prompt tokens to compute for
    each output token that is expected; whatever a token of either costs, who has least gives most for its step time.
    """
    c = s.clock[0]
    uncached = s.requests[r].prompt - s.requests[r].cached
    if c.discipline == SJF:
        return s.requests[r].estimated_output
    if c.discipline == SPF:
        return float(uncached)
    if c.discipline == VALUE:
        return uncached / max(s.requests[r].estimated_output, 1.0)
    if c.discipline == SLO_AWARE:
        return (
            s.requests[r].arrival_ms
            + s.requests[r].ttft_target_ms
            - step_ms(s.parameters[0, 1:], 1.0, float(uncached), float(s.requests[r].cached))
            - (lone_encode_ms(s, r) if c.images else 0.0)
        )
    if c.discipline == FAIR:
        tenant = s.users[s.requests[r].user]
        start = max(c.virtual_time, tenant.finish)
        tenant.finish = start + (uncached + s.requests[r].estimated_output) / tenant.weight
        return start
    if c.discipline == DEADLINE:
        due_ms = s.requests[r].arrival_ms + s.requests[r].ttft_target_ms
        return min(due_ms, _RELEGATED_MS / 2) + DEADLINE_MS_PER_TOKEN * uncached
    if c.discipline in (PRIORITY, VISION):
        return s.requests[r].priority * _PRIORITY_STRIDE_MS + s.requests[r].arrival_ms
    return s.requests[r].arrival_ms


@kernel
def latest_ms(s: SchedulerState, r: int) -> float:
    """When a request that waits becomes hopeless: not even the fastest prefill would keep the guard from then on.

    What was cached of its prompt when it was last looked up need not be computed, nor features of its image be encoded
    that are kept now.
    """
    c = s.clock[0]
    missing = s.requests[r].prompt - s.requests[r].computed
    fastest_ms = c.fastest_ms + missing * c.fastest_token_ms
    if c.images:
        fastest_ms += least_encode_ms(s, r)
    return s.requests[r].arrival_ms + c.ttft_guard * s.requests[r].ttft_target_ms - fastest_ms


@kernel
def key_of(s: SchedulerState, line: int, r: int) -> float:
    """What a request is in a line by; who is held goes behind everybody who is not, who holds KV blocks before."""
    if line == TURN:
        if s.requests[r].held:
            return math.inf
        return -math.inf if s.requests[r].blocks > 0 else min(s.requests[r].key, _LAST)
    return s.requests[r].latest_ms if line == DUE else s.requests[r].arrival_ms


@kernel
def key_at(s: SchedulerState, line: int, i: int) -> float:
    """What the request at place `i` of a line is there by."""
    if line == TURN:
        return s.lines[i].turn_key
    return s.lines[i].due_key if line == DUE else s.requests[s.turns[i].coming].arrival_ms


@kernel
def member(s: SchedulerState, line: int, i: int) -> int:
    """The request at place `i` of a line."""
    if line == TURN:
        return s.lines[i].waiting
    return s.lines[i].due if line == DUE else s.turns[i].coming


@kernel
def put(s: SchedulerState, line: int, i: int, r: int, key: float) -> None:
    """Write a request to place `i` of a line."""
    if line == TURN:
        s.lines[i].waiting = r
        s.lines[i].turn_key = key
        s.lines[r].place = i
    elif line == DUE:
        s.lines[i].due = r
        s.lines[i].due_key = key
        s.lines[r].due_place = i
    else:
        s.turns[i].coming = r


@kernel
def rise(s: SchedulerState, line: int, i: int, r: int) -> None:
    """Put a request at place `i` of a line, or above it where those are later than it."""
    key = key_of(s, line, r)
    while i > 0:
        parent = (i - 1) >> 1
        above, above_key = member(s, line, parent), key_at(s, line, parent)
        if above_key < key or (above_key == key and above < r):
            break
        put(s, line, i, above, above_key)
        i = parent
    put(s, line, i, r, key)


@kernel
def sink(s: SchedulerState, line: int, n: int, i: int, r: int) -> None:
    """Put a request where place `i` of a line of `n` is empty, or wherever below or above it belongs.

    The sooner of those below move up, all the way down, and then it rises from there: who comes last mostly belongs to
    the bottom, and this compares half as often.
    """
    while True:
        child = 2 * i + 1
        if child >= n:
            break
        low, key = member(s, line, child), key_at(s, line, child)
        if child + 1 < n:
            other, other_key = member(s, line, child + 1), key_at(s, line, child + 1)
            if other_key < key or (other_key == key and other < low):
                child, low, key = child + 1, other, other_key
        put(s, line, i, low, key)
        i = child
    rise(s, line, i, r)


@kernel
def fill_gap(s: SchedulerState, line: int, n: int, place: int) -> None:
    """The last of a line, which has `n` members without the one that left, fills the gap at a place."""
    if place < n:
        sink(s, line, n, place, member(s, line, n))


@kernel
def is_relegated(s: SchedulerState, r: int) -> bool:
    """Whether a request waits until nobody else does."""
    return bool(s.requests[r].key >= _RELEGATED_MS)


@kernel
def enter_due(s: SchedulerState, r: int) -> None:
    """A waiting request enters the line of those that the guard may refuse, if there is a guard and it is new."""
    c = s.clock[0]
    if c.ttft_guard < math.inf and s.requests[r].admitted == 0 and not is_relegated(s, r):
        s.requests[r].latest_ms = latest_ms(s, r)
        c.n_due += 1
        rise(s, DUE, c.n_due - 1, r)


@kernel
def look_up_due(s: SchedulerState, r: int) -> float:
    """See what the caches have by now of the request that is refused first: when it becomes hopeless after all."""
    if s.clock[0].prefix_cache:
        look_up(s, r)
    s.requests[r].latest_ms = max(s.requests[r].latest_ms, latest_ms(s, r))
    sink(s, DUE, s.clock[0].n_due, 0, r)
    return s.requests[r].latest_ms


@kernel
def push(s: SchedulerState, r: int) -> None:
    """Add a request to those that wait."""
    c = s.clock[0]
    c.n_queue += 1
    c.queued_tokens += s.requests[r].prompt - s.requests[r].cached
    rise(s, TURN, c.n_queue - 1, r)
    enter_due(s, r)


@kernel
def take_out(s: SchedulerState, r: int) -> None:
    """Remove a waiting request from wherever it is in the lines."""
    c = s.clock[0]
    c.n_queue -= 1
    c.queued_tokens -= s.requests[r].prompt - s.requests[r].cached
    fill_gap(s, TURN, c.n_queue, s.lines[r].place)
    due = s.lines[r].due_place
    if due < c.n_due and s.lines[due].due == r:
        c.n_due -= 1
        fill_gap(s, DUE, c.n_due, due)


@kernel
def relegate(s: SchedulerState, r: int) -> None:
    """A waiting request that comes too late whatever is done waits on behind all that do not."""
    take_out(s, r)
    s.requests[r].key += _RELEGATED_MS
    push(s, r)


@kernel
def put_in_order(s: SchedulerState) -> None:
    """Those who wait have new keys: line them up anew. Whom of a tenant its ceiling holds back is seen anew, too."""
    c = s.clock[0]
    if c.ceilings:
        for user in range(len(s.users)):
            s.users[user].held = 0
        for k in range(c.n_queue):
            s.requests[s.lines[k].waiting].held = 0
    for k in range(c.n_queue):
        # The heap grows from the front, so the ids behind it are still to be read.
        rise(s, TURN, k, s.lines[k].waiting)


@kernel
def change_discipline(s: SchedulerState, discipline: int) -> None:
    """Give every waiting and running request the key of another discipline, as if it had arrived under it."""
    c = s.clock[0]
    c.discipline = discipline
    c.virtual_time = 0.0
    for user in range(len(s.users)):
        s.users[user].finish = 0.0
    for k in range(c.next_arrival):
        r = s.turns[k].arrived if c.conversations else k
        if s.requests[r].reason == UNFINISHED:
            s.requests[r].key = key_on_arrival(s, r)
    put_in_order(s)


@kernel
def follow_guard(s: SchedulerState) -> None:
    """Order those that the guard may refuse anew if it, or the estimate of how fast a prompt can be, has changed.

    No step of any batch computes a prompt faster than at saturated throughput, so a request that is hopeless by this
    bound is hopeless whatever runs beside it.
    """
    c = s.clock[0]
    p = s.parameters[0, 1:]
    guard = s.limits[0].ttft_guard
    fastest = p[5] + p[6] + p[3] / p[0]
    token = p[4] / p[0] + p[7]
    if c.ttft_guard == guard and c.fastest_ms == fastest and c.fastest_token_ms == token:
        return
    c.ttft_guard = guard
    c.fastest_ms = fastest
    c.fastest_token_ms = token
    c.n_due = 0
    for k in range(c.n_queue):
        enter_due(s, s.lines[k].waiting)
