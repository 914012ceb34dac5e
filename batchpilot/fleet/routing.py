"""The router's part of the event loop: it looks, finds a replica and puts a request there. Compiled, unchecked."""

from __future__ import annotations

import math
from typing import Any

from batchpilot.engines.scheduler.prefix_cache import found_tokens
from batchpilot.engines.scheduler.state import ABSENT, FAILED, SchedulerState
from batchpilot.fleet import rules
from batchpilot.fleet.arrays import DECODE, DECODES, NOBODY, PLACED, PREFILL, UNREACHED, FleetArrays
from batchpilot.fleet.compiled_rules import choose, may_take, predicted_ttft_ms
from batchpilot.fleet.conversations import break_off
from batchpilot.fleet.rules import Asked
from batchpilot.latency.model.compiled import kernel
from batchpilot.latency.model.saturation import largest_tokens, step_ms

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
        if c.prefix_cache:
            waiting -= found_tokens(s, r)
    view.queued_tokens = waiting
    c.looks += 1
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
def rule_of(f: FleetArrays, tier: int) -> int:
    """The rule for a tier: who decodes has no prompts that wait, so where others compare those its requests count."""
    rule = f.routing[0].rule
    if tier >= DECODES and rule in (rules.LEAST_TOKENS, rules.PREDICTED_TTFT, rules.PREFIX):
        return rules.LEAST_REQUESTS
    return int(rule)


@kernel
def reachable(f: FleetArrays, r: int, tier: int, now_ms: float) -> int:
    """The replica that a request reaches, after retries; -1 if none may take it, -2 if all that it tried were dead."""
    c = f.routing[0]
    version = f.versions[r]
    rule = rule_of(f, tier)
    turn = version + 1 + (len(f.turns) // 2 if tier >= DECODES else 0)
    asked = Asked(r, float(f.incoming[r].prompt), version, tier, now_ms)
    tries = 0
    while True:
        i = choose(f.views, rule, asked, f.turns[turn], f.draws[r, 0], f.draws[r, 1])
        if i < 0:
            return -1 if tries == 0 else -2
        f.turns[turn] = i
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
def is_believed_cached(s: SchedulerState, f: FleetArrays, i: int, content: int) -> bool:
    """Whether a replica's cache had a block when it was last looked at, or the router has sent it one since."""
    looks = s.clock[i].looks
    is_here = s.contents[i, content].holders != ABSENT
    is_other_now = s.contents[i, s.contents.shape[1] // 2 + content].content == 2 * looks + 1
    return bool(is_here != is_other_now or f.sent_blocks[i, content] == looks + 1)


@kernel
def held_tokens(s: SchedulerState, f: FleetArrays, i: int, r: int) -> int:
    """Prompt tokens of a request that a router believes to be in a replica's cache, found as `prefix_cache.leading`."""
    chain = f.chains[f.views[i].kind, r]
    size = s.clock[i].block_size
    low = 0
    most = min(chain.hashed, (f.incoming[r].prompt - 1) // size)
    while low < most:
        middle = (low + most + 1) >> 1
        if is_believed_cached(s, f, i, s.contents[i, chain.first + middle - 1].content):
            low = middle
        else:
            most = middle - 1
    return int(low * size)


@kernel
def note_held(s: SchedulerState, f: FleetArrays, r: int) -> None:
    """Note in every view what its replica is believed to hold of a request."""
    for i in range(len(f.views)):
        asked = f.views[i].on == 1 and s.clock[i].prefix_cache and f.links[i].role != DECODE
        f.views[i].held = held_tokens(s, f, i, r) if asked else 0


@kernel
def note_sent(s: SchedulerState, f: FleetArrays, i: int, r: int) -> None:
    """A router remembers until it looks again that a replica will have a prompt's blocks."""
    chain = f.chains[f.views[i].kind, r]
    looks = s.clock[i].looks
    for k in range(min(chain.hashed, f.incoming[r].prompt // s.clock[i].block_size)):
        f.sent_blocks[i, s.contents[i, chain.first + k].content] = looks + 1


@kernel
def place(s: SchedulerState, f: FleetArrays, r: int, now_ms: float) -> None:
    """Find a replica for a request and put it into its row."""
    c = f.routing[0]
    if len(f.chains) > 0:
        note_held(s, f, r)
    i = reachable(f, r, tier_for(f, r, now_ms), now_ms)
    f.where[r, 0] = i
    if i < 0:
        f.where[r, 2] = NOBODY if i == -1 else UNREACHED
        if c.conversing == 1:
            break_off(f, r, FAILED, now_ms)
        return
    row_place = s.clock[i].n_requests
    s.requests[i, row_place] = f.incoming[r]
    s.clock[i].n_requests = row_place + 1
    if s.clock[i].prefix_cache:
        s.chains[i, row_place] = f.chains[f.views[i].kind, r]
        if c.counts_sent == 1 and c.poll_ms > 0:
            note_sent(s, f, i, r)
    most = s.clock[i].images
    for image in range(most):
        here, there = row_place * most + image, r * most + image
        s.images[i, here].number = f.images[there].number
        s.images[i, here].end = f.images[there].end
        s.images[i, here].kind = f.images[there].kind
    c.fullest = max(c.fullest, row_place + 1)
    if c.pooled == 1 or c.conversing == 1:
        f.names[i, row_place] = r
        f.links[i].wake_ms = min(f.links[i].wake_ms, f.incoming[r].arrival_ms)
        if f.links[i].role == PREFILL:
            s.requests[i, row_place].output = 1
    f.where[r, 1] = row_place
    f.where[r, 2] = PLACED
    if c.counts_sent == 1:
        f.views[i].sent += 1
        f.views[i].sent_tokens += f.incoming[r].prompt - f.views[i].held
