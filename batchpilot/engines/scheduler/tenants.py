"""Ceilings: at most so many requests of a tenant run at a time; who is held back lets others pass. Compiled, unchecked.

Whose turn comes while its tenant is at the ceiling is held, behind everybody who is not. Whenever one of the tenant's
requests leaves, the first of those held has its turn again. So nobody who may run is missed, and a tenant below its
ceiling costs nothing.
"""

from __future__ import annotations

from batchpilot.engines.scheduler.queue import TURN, rise, sink, sooner, take_out
from batchpilot.engines.scheduler.state import SchedulerState
from batchpilot.latency.model.compiled import kernel


@kernel
def somebody_may_join(s: SchedulerState) -> bool:
    """Whether the first in line may run, once those are held back of whom it is the turn and who may not."""
    c = s.clock[0]
    while c.n_queue > 0:
        r = s.lines[0].waiting
        if s.requests[r].held:
            return False
        tenant = s.users[s.requests[r].user]
        if tenant.running < tenant.ceiling:
            return True
        s.requests[r].held = 1
        tenant.held += 1
        sink(s, TURN, c.n_queue, 0, r)
    return False


@kernel
def let_one_go(s: SchedulerState, user: int) -> None:
    """Give the first of a tenant's held requests its turn again, if the tenant is below its ceiling."""
    tenant = s.users[user]
    if tenant.held == 0 or tenant.running >= tenant.ceiling:
        return
    first = -1
    for k in range(s.clock[0].n_queue):
        r = s.lines[k].waiting
        if s.requests[r].held and s.requests[r].user == user and (first < 0 or sooner(s, r, first)):
            first = r
    s.requests[first].held = 0
    tenant.held -= 1
    rise(s, TURN, s.lines[first].place, first)


@kernel
def leave_line(s: SchedulerState, r: int) -> None:
    """`take_out`, and who is held behind a request that had its turn has it now."""
    take_out(s, r)
    if not s.clock[0].ceilings:
        return
    user = s.requests[r].user
    if s.requests[r].held:
        s.requests[r].held = 0
        s.users[user].held -= 1
    else:
        let_one_go(s, user)


@kernel
def count_in(s: SchedulerState, r: int) -> None:
    """A waiting request is about to run."""
    s.users[s.requests[r].user].running += 1


@kernel
def count_out(s: SchedulerState, r: int) -> None:
    """A request runs no longer."""
    user = s.requests[r].user
    s.users[user].running -= 1
    let_one_go(s, user)
