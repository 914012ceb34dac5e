"""Turns of conversations: each comes its think time after the answer to the one before. Compiled, unchecked.

Without conversations requests arrive in the order of their table and nothing here is called (`clock.conversations` 0).
With some, the turns whose time is known wait in a line of their own, and a second one says who came, in order.
"""

from __future__ import annotations

from typing import Any

from numpy.typing import NDArray

from batchpilot.engines.scheduler.queue import COMING, fill_gap, rise
from batchpilot.engines.scheduler.state import UNFINISHED, SchedulerState
from batchpilot.latency.model.compiled import kernel

UNKNOWN, KNOWN, COME = range(3)
"""Stages of a turn: the answer before it is awaited; its time is known; it has come."""


@kernel
def expect(s: SchedulerState, r: int, at_ms: float) -> None:
    """A turn's time is known from now on."""
    c = s.clock[0]
    s.requests[r].arrival_ms = at_ms
    s.turns[r].stage = KNOWN
    c.n_coming += 1
    rise(s, COMING, c.n_coming - 1, r)


@kernel
def take_coming(s: SchedulerState) -> int:
    """The turn whose time is next comes."""
    c = s.clock[0]
    r = s.turns[0].coming
    c.n_coming -= 1
    fill_gap(s, COMING, c.n_coming, 0)
    s.turns[r].stage = COME
    s.turns[c.next_arrival].arrived = r
    c.next_arrival += 1
    return int(r)


@kernel
def leave_coming(s: SchedulerState, r: int) -> None:
    """A turn that has not come will not come."""
    c = s.clock[0]
    if s.turns[r].stage == KNOWN:
        place = 0
        while s.turns[place].coming != r:
            place += 1
        c.n_coming -= 1
        fill_gap(s, COMING, c.n_coming, place)
    s.turns[r].stage = UNKNOWN


@kernel
def go_on(s: SchedulerState, r: int) -> None:
    """A turn was answered: the next one follows when its client has thought, unless it was cancelled before."""
    following = s.turns[r].following
    if following >= 0 and s.requests[following].reason == UNFINISHED:
        expect(s, following, s.clock[0].now_ms + s.turns[following].think_ms)


@kernel
def break_off(s: SchedulerState, r: int, reason: int) -> None:
    """A turn was not answered: the later ones are never asked, and end for its reason; no window hears of them."""
    c = s.clock[0]
    following = s.turns[r].following
    while following >= 0 and s.requests[following].reason == UNFINISHED:
        s.requests[following].reason = reason
        s.requests[following].finish_ms = c.now_ms
        s.slots[c.n_ended % len(s.slots)].ended = following
        c.n_ended += 1
        following = s.turns[following].following


def arrived(s: SchedulerState, since: int = 0) -> NDArray[Any]:
    """Requests that have come, records of `REQUEST` in order of arrival.

    Args:
        s: one simulation.
        since: leave out so many of the first.
    """
    come = int(s.clock[0].next_arrival)
    if s.clock[0].conversations:
        records: NDArray[Any] = s.requests[s.turns["arrived"][since:come]]
        return records
    return s.requests[since:come]
