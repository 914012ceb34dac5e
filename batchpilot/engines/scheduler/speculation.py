"""Speculative decoding: drafts beside the next token of decoding requests, verified in the same step. Compiled.

A request that lacks one token computes that one and up to `speculative_tokens` drafted ones behind it. Of these the
executor keeps a leading part: it writes into `tokens` of the plan how many of the request's tokens stand, and the
commit emits one more. KV blocks are held for the whole draft while it is verified and given back for what is rejected.
Drafts only take what nobody needs for the next token of anybody, and none goes beyond a request's output.

Nothing here is called without speculation (`limits.speculative_tokens` 0).
"""

from __future__ import annotations

import math

import numpy as np
from numpy.typing import NDArray

from batchpilot.engines.scheduler.kv_blocks import blocks_for, take
from batchpilot.engines.scheduler.state import CHUNKED, SchedulerState
from batchpilot.latency.model.compiled import kernel
from batchpilot.latency.model.saturation import largest_tokens, step_ms

FACTOR_A, MODULUS_A = 40014, 2147483563
FACTOR_B, MODULUS_B = 40692, 2147483399
"""L'Ecuyer's combined multiplicative generator (1988): its products fit into 64 bits."""


@kernel
def draft_ms(s: SchedulerState, parameters) -> float:  # type: ignore[no-untyped-def]
    """What drafting takes in the step being planned: the drafter's steps, each a share of the model's own."""
    c = s.clock[0]
    drafting = float(c.n_drafting)
    return float(c.draft_share * c.draft_steps * step_ms(parameters, drafting, drafting, float(c.draft_context)))


@kernel
def room_for_drafts(s: SchedulerState) -> int:
    """Tokens that drafts may have in all: what token budget and step target leave beside the next tokens."""
    c = s.clock[0]
    limits = s.limits[0]
    budget = min(limits.token_budget, 2**30)
    if limits.step_target_ms < math.inf and c.prefill == CHUNKED:
        estimate = s.parameters[0, 1:]
        requests, context = float(c.n_plan), float(c.plan_context)
        drafting = c.draft_share * limits.speculative_tokens * step_ms(estimate, requests, requests, context)
        budget = largest_tokens(estimate, requests, context, limits.step_target_ms - drafting, budget)
    return int(budget - c.plan_total_tokens)


@kernel
def count_draft(s: SchedulerState, k: int, tokens: int) -> None:
    """The request at place `k` of the plan drafts so many tokens, for which it holds KV blocks."""
    c = s.clock[0]
    s.slots[k].tokens = 1 + tokens
    c.plan_total_tokens += tokens
    c.plan_drafted += tokens
    c.n_drafting += 1
    c.draft_context += s.requests[s.slots[k].planned].computed
    c.draft_steps = max(c.draft_steps, tokens)


@kernel
def plan_drafts(s: SchedulerState) -> None:
    """Drafts for those whose next token is planned, in order of admission; none in a step that had to preempt."""
    c = s.clock[0]
    if c.kv_short or c.n_plan == 0:
        return
    room = room_for_drafts(s)
    for k in range(c.n_plan):
        r = s.slots[k].planned
        request = s.requests[r]
        slots = (request.blocks + c.free_blocks) * c.block_size - request.computed - 1
        tokens = min(s.limits[0].speculative_tokens, request.output - request.generated - 1, room, slots)
        if tokens <= 0 or request.generated == 0:
            continue
        missing = max(blocks_for(request.computed + 1 + tokens, c.block_size) - request.blocks, 0)
        request.blocks += missing
        take(s, missing)
        room -= tokens
        count_draft(s, k, tokens)


@kernel
def lacks_one(s: SchedulerState, r: int) -> bool:
    """Whether a request speaks in the step being planned and did so before: whoever drafts does."""
    request = s.requests[r]
    return bool(request.generated > 0 and request.prompt + request.generated - request.computed == 1)


@kernel
def give_back(s: SchedulerState, r: int, drafted: int) -> None:
    """A request holds no more KV blocks than for what it has computed, its next token and so many drafted ones."""
    c = s.clock[0]
    spare = s.requests[r].blocks - blocks_for(s.requests[r].computed + 1 + drafted, c.block_size)
    if spare > 0:
        s.requests[r].blocks -= spare
        c.free_blocks += spare


@kernel
def forget_drafts(s: SchedulerState) -> None:
    """The next step begins without drafts."""
    c = s.clock[0]
    c.plan_drafted = 0
    c.n_drafting = 0
    c.draft_context = 0
    c.draft_steps = 0


@kernel
def shorten_drafts(s: SchedulerState, drafted: NDArray[np.int64]) -> None:
    """Cut the planned drafts to those that were found.

    Args:
        s: one simulation, its step planned.
        drafted: tokens that each planned request drafts, no more than planned, shape (n_plan,).
    """
    c = s.clock[0]
    c.plan_total_tokens -= c.plan_drafted
    forget_drafts(s)
    for k in range(c.n_plan):
        if s.slots[k].tokens == 1 or not lacks_one(s, s.slots[k].planned):
            continue
        s.slots[k].tokens = 1
        give_back(s, s.slots[k].planned, drafted[k])
        if drafted[k] > 0:
            count_draft(s, k, drafted[k])


@kernel
def settle_drafts(s: SchedulerState) -> int:
    """The accepted tokens of drafts are computed and said; what is left is a step of one token each.

    Returns:
        How many were accepted.
    """
    c = s.clock[0]
    w = s.window[0]
    total = 0
    for k in range(c.n_plan):
        r = s.slots[k].planned
        if not lacks_one(s, r):
            continue
        accepted = s.slots[k].tokens - 1
        s.slots[k].tokens = 1
        s.requests[r].computed += accepted
        s.requests[r].generated += accepted
        give_back(s, r, 0)
        total += accepted
    w.drafts += c.n_drafting
    w.drafted_tokens += c.plan_drafted
    w.accepted_tokens += total
    c.useful_tokens -= c.plan_drafted - total
    forget_drafts(s)
    return total


@kernel
def drop_drafts(s: SchedulerState) -> None:
    """The step failed: its drafts come to nothing."""
    for k in range(s.clock[0].n_plan):
        if lacks_one(s, s.slots[k].planned):
            give_back(s, s.slots[k].planned, 0)
    forget_drafts(s)


@kernel
def draw(s: SchedulerState) -> float:
    """The next of the engine's random numbers, evenly in [0, 1)."""
    c = s.clock[0]
    c.draw_a = FACTOR_A * c.draw_a % MODULUS_A
    c.draw_b = FACTOR_B * c.draw_b % MODULUS_B
    return float((c.draw_a - c.draw_b) % (MODULUS_A - 1) / (MODULUS_A - 1))


@kernel
def draw_accepted(s: SchedulerState) -> None:
    """Draw how much of each draft stands: a run that ends with the first token that is rejected."""
    c = s.clock[0]
    for k in range(c.n_plan):
        if s.slots[k].tokens == 1 or not lacks_one(s, s.slots[k].planned):
            continue
        drafted = s.slots[k].tokens - 1
        level = draw(s)
        accepted = 0
        here = c.acceptance
        reached = here
        while accepted < drafted and level < reached:
            accepted += 1
            here *= c.acceptance_decay
            reached *= here
        s.slots[k].tokens = 1 + accepted
