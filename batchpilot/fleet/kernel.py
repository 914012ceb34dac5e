"""Replicas under one event loop: arrivals are routed in their order, replicas run up to them. Compiled, unchecked.

Each replica is a row of one scheduler state and runs by the scheduler's own loop. A replica is looked at when the
router polls, or at every arrival where the view is fresh; in between nobody needs to know how far it has come.
"""

from __future__ import annotations

import math
from typing import Any

from batchpilot.engines.scheduler.decoding import close_calendars
from batchpilot.engines.scheduler.state import SchedulerState, row
from batchpilot.engines.simulated.kernel import STUCK, run_steps
from batchpilot.fleet import rules
from batchpilot.fleet.arrays import LIMITED, NOBODY, PLACED, UNREACHED, FleetArrays
from batchpilot.fleet.compiled_rules import choose, may_take, predicted_ttft_ms
from batchpilot.fleet.rules import Asked
from batchpilot.latency.model.compiled import allocating, kernel
from batchpilot.latency.model.saturation import largest_tokens, step_ms

ALL_ROUTED, NO_ROOM, STUCK_FLEET = range(3)
"""Why `run_fleet` returned: the time is reached; a replica's row is full; a replica can never run what waits there."""

_LARGEST_STEP = 65_536
"""Tokens beyond which a full step is not looked for, where no limit cuts steps."""


@kernel
def look(s: SchedulerState, view: Any, estimating: bool) -> None:
    """Let a router see a replica as it is: its requests, its queue and, for those who ask, what a full step takes."""
    c = s.clock[0]
    view.requests = c.n_running + c.n_queue + (c.n_requests - c.next_arrival)
    waiting = c.unanswered_tokens
    for r in range(c.next_arrival, c.n_requests):
        waiting += s.requests[r].prompt
    view.queued_tokens = waiting
    view.sent = 0
    view.sent_tokens = 0
    if not estimating:
        return
    running = max(c.n_running, 1)
    limits = s.limits[0]
    estimate = s.parameters[0, 1:]
    tokens = min(limits.token_budget, _LARGEST_STEP)
    if limits.step_target_ms < math.inf:
        fitting = largest_tokens(estimate, float(running), 0.0, limits.step_target_ms, tokens)
        tokens = max(fitting, 1)
    view.full_step_tokens = max(tokens - running, 1)
    view.full_step_ms = step_ms(estimate, float(running), float(tokens), 0.0)


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
def look_at_all(s: SchedulerState, f: FleetArrays, now_ms: float) -> bool:
    """Advance every replica to a time and look at it; False if one is stuck."""
    c = f.routing[0]
    views = f.views
    estimating = c.rule == rules.PREDICTED_TTFT or c.degrade_ttft_ms < math.inf
    fine = True
    for i in range(len(views)):
        if views[i].on == 1:
            fine = advance_replica(s, views, i, now_ms) and fine
            if views[i].dead == 0:
                look(row(s, i), views[i], estimating)
    return fine


@kernel
def bucket_allows(bucket: Any, tokens: float, now_ms: float) -> bool:
    """Take tokens out of a user's bucket; False, and nothing taken, if it holds fewer."""
    if bucket.rate_per_s == math.inf:
        return True
    flown = bucket.rate_per_s * max(now_ms - bucket.filled_ms, 0.0) / 1000.0
    bucket.tokens = min(bucket.burst, bucket.tokens + flown)
    bucket.filled_ms = max(now_ms, bucket.filled_ms)
    if bucket.tokens < tokens:
        return False
    bucket.tokens -= tokens
    return True


@kernel
def reachable(f: FleetArrays, r: int, tier: int, now_ms: float) -> int:
    """The replica that a request reaches, after retries; -1 if none may take it, -2 if all that it tried were dead."""
    c = f.routing[0]
    version = f.versions[r]
    asked = Asked(r, float(f.incoming[r].prompt), version, tier, now_ms)
    tries = 0
    while True:
        i = choose(f.views, c.rule, asked, f.turns[version + 1], f.draws[r, 0], f.draws[r, 1])
        if i < 0:
            return -1 if tries == 0 else -2
        f.turns[version + 1] = i
        view = f.views[i]
        if view.dead == 0:
            view.failures = 0
            return int(i)
        view.failures += 1
        view.tried_by = r
        if view.failures >= c.breaker_failures:
            view.open_until_ms = now_ms + c.breaker_ms
        if tries == c.retries:
            return -2
        tries += 1
        c.retried += 1


@kernel
def tier_for(f: FleetArrays, r: int, now_ms: float) -> int:
    """0 while a replica of the model asked for promises a first token in time, else 1 where there is a smaller one."""
    most_ms = f.routing[0].degrade_ttft_ms
    if most_ms == math.inf:
        return 0
    prompt = float(f.incoming[r].prompt)
    asked = Asked(r, prompt, f.versions[r], 0, now_ms)
    other = Asked(r, prompt, f.versions[r], 1, now_ms)
    smaller = 0
    for i in range(len(f.views)):
        view = f.views[i]
        if may_take(view, other):
            smaller = 1
        elif may_take(view, asked) and predicted_ttft_ms(view, prompt) <= most_ms:
            return 0
    return smaller


@kernel
def place(s: SchedulerState, f: FleetArrays, r: int, now_ms: float) -> None:
    """Find a replica for a request and put it into its row."""
    c = f.routing[0]
    i = reachable(f, r, tier_for(f, r, now_ms), now_ms)
    f.where[r, 0] = i
    if i < 0:
        f.where[r, 2] = NOBODY if i == -1 else UNREACHED
        return
    row_place = s.clock[i].n_requests
    s.requests[i, row_place] = f.incoming[r]
    s.clock[i].n_requests = row_place + 1
    c.fullest = max(c.fullest, row_place + 1)
    f.where[r, 1] = row_place
    f.where[r, 2] = PLACED
    if c.counts_sent == 1:
        f.views[i].sent += 1
        f.views[i].sent_tokens += f.incoming[r].prompt


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
    while c.next < len(f.incoming) and f.incoming[c.next].arrival_ms < until_ms:
        if c.fullest == s.requests.shape[1]:
            return NO_ROOM
        request = f.incoming[c.next]
        now_ms = request.arrival_ms
        if c.poll_ms > 0:
            while c.next_poll_ms <= now_ms:
                if not look_at_all(s, f, c.next_poll_ms):
                    return STUCK_FLEET
                c.next_poll_ms += c.poll_ms
        elif not look_at_all(s, f, now_ms):
            return STUCK_FLEET
        if bucket_allows(f.buckets[request.user], request.prompt + request.estimated_output, now_ms):
            place(s, f, c.next, now_ms)
        else:
            f.where[c.next, 2] = LIMITED
        c.next += 1
    for i in range(len(f.views)):
        if f.views[i].on == 1 and not advance_replica(s, f.views, i, until_ms):
            return STUCK_FLEET
        if s.clock[i].decoding:
            close_calendars(row(s, i))
    return ALL_ROUTED
