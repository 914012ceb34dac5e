"""A request is cancelled, whatever it is doing: not arrived, waiting, running or padded. Compiled, unchecked.

It ends at once and frees its KV blocks; its client left, so it counts as neither served nor missed. Only between steps:
a step that is planned is committed first.
"""

from __future__ import annotations

import math

from batchpilot.engines.scheduler.admission import skip_cancelled
from batchpilot.engines.scheduler.conversations import COME, leave_coming
from batchpilot.engines.scheduler.lifecycle import close_holes, end_request
from batchpilot.engines.scheduler.state import CANCELLED, STATIC, UNFINISHED, SchedulerState
from batchpilot.engines.scheduler.static_batching import shorten_batch
from batchpilot.engines.scheduler.tenants import leave_line
from batchpilot.latency.model.compiled import kernel


@kernel
def is_running(s: SchedulerState, r: int) -> bool:
    """Whether a request is among the running ones."""
    n = s.clock[0].n_running
    place = 0
    while place < n and s.slots[place].running != r:
        place += 1
    return bool(place < n)


@kernel
def cancel_ahead(s: SchedulerState, r: int) -> None:
    """End a request whose turn to arrive has not come: it never arrives."""
    c = s.clock[0]
    if c.conversations:
        leave_coming(s, r)
    s.requests[r].arrival_ms = math.nan
    end_request(s, r, CANCELLED)
    if not c.conversations:
        c.cancelled_ahead += 1
        skip_cancelled(s)


@kernel
def cancel(s: SchedulerState, r: int) -> bool:
    """End a request as cancelled.

    Returns:
        False if it had ended already, which changes nothing.
    """
    c = s.clock[0]
    if s.requests[r].reason != UNFINISHED:
        return False
    if s.turns[r].stage != COME if c.conversations else r >= c.next_arrival:
        cancel_ahead(s, r)
        return True
    if not is_running(s, r):
        leave_line(s, r)
        end_request(s, r, CANCELLED)
        return True
    end_request(s, r, CANCELLED)
    close_holes(s)
    if c.mode == STATIC:
        shorten_batch(s)
    return True
