"""Which replica takes a request: the rules of routing, on arrays, without allocation.

Plain functions, which the simulation compiles and a server may call as they are. Times in ms.
"""

from __future__ import annotations

import math
from typing import Any, NamedTuple

ROUND_ROBIN, WEIGHTED, RANDOM, POWER_OF_TWO, LEAST_REQUESTS, LEAST_TOKENS, PREDICTED_TTFT, PREFIX = range(8)


class Asked(NamedTuple):
    """What a request asks of a replica.

    Attributes:
        request: its id; who failed to reach a replica does not try it again.
        prompt: tokens of its prompt.
        version: of the model, -1 for any.
        tier: of the model.
        now_ms: the time.
    """

    request: int
    prompt: float
    version: int
    tier: int
    now_ms: float


def may_take(view: Any, asked: Asked) -> bool:
    """Whether a replica may take a request: it serves, is not suspected, its circuit closed, and it is what was asked.

    Args:
        view: record of `VIEW`.
        asked: by the request.
    """
    return bool(
        view.on == 1
        and view.draining == 0
        and view.suspected == 0
        and view.tier == asked.tier
        and asked.now_ms >= view.ready_ms
        and asked.now_ms >= view.open_until_ms
        and (asked.version < 0 or view.version == asked.version)
        and view.tried_by != asked.request
    )


def predicted_ttft_ms(view: Any, tokens: float) -> float:
    """When a replica would have computed a prompt behind those that wait, in full steps; cached tokens take none.

    Args:
        view: record of `VIEW`.
        tokens: of the request's prompt.
    """
    waiting = view.queued_tokens + view.sent_tokens + tokens - view.held
    steps = math.ceil(max(waiting, 1.0) / max(view.full_step_tokens, 1.0))
    return float(steps * view.full_step_ms)


def prefill_ms(view: Any, tokens: float) -> float:
    """`predicted_ttft_ms` without rounding: a cached block counts, however much a step could hold.

    Args:
        view: record of `VIEW`.
        tokens: of the request's prompt.
    """
    waiting = view.queued_tokens + view.sent_tokens + tokens - view.held
    return float(waiting / max(view.full_step_tokens, 1.0) * view.full_step_ms)


def cost_of(view: Any, rule: int, asked: Asked) -> float:
    """How unwelcome a request is to a replica under a rule that compares.

    Args:
        view: record of `VIEW`.
        rule: its code.
        asked: by the request.
    """
    if rule == LEAST_TOKENS:
        return float((view.queued_tokens + view.sent_tokens) / view.weight)
    if rule == PREDICTED_TTFT:
        return predicted_ttft_ms(view, asked.prompt)
    if rule == PREFIX:
        return prefill_ms(view, asked.prompt)
    return float((view.requests + view.sent) / view.weight)


def cheapest(views: Any, rule: int, asked: Asked, turn: int) -> int:
    """The replica of least cost, -1 for none; ties go to the next one in turn.

    Args:
        views: records of `VIEW`, shape (n,).
        rule: its code.
        asked: by the request.
        turn: the replica that was chosen last.
    """
    best = -1
    least = math.inf
    n = len(views)
    for k in range(1, n + 1):
        i = (turn + k) % n
        if may_take(views[i], asked):
            cost = cost_of(views[i], rule, asked)
            if best < 0 or cost < least:
                best, least = i, cost
    return best


def next_in_turn(views: Any, asked: Asked, turn: int) -> int:
    """The next replica that may take the request, -1 for none.

    Args:
        views: records of `VIEW`, shape (n,).
        asked: by the request.
        turn: the replica that was chosen last.
    """
    n = len(views)
    for k in range(1, n + 1):
        i = (turn + k) % n
        if may_take(views[i], asked):
            return i
    return -1


def weighted_turn(views: Any, asked: Asked) -> int:
    """Smooth weighted round robin: every replica earns its weight, the richest is chosen and pays what all earned.

    Args:
        views: records of `VIEW`, shape (n,); their credits move.
        asked: by the request.
    """
    best = -1
    total = 0.0
    for i in range(len(views)):
        if may_take(views[i], asked):
            views[i].credit += views[i].weight
            total += views[i].weight
            if best < 0 or views[i].credit > views[best].credit:
                best = i
    if best >= 0:
        views[best].credit -= total
    return best


def drawn(views: Any, asked: Asked, draw: float) -> int:
    """A replica drawn evenly from those that may take the request, -1 for none.

    Args:
        views: records of `VIEW`, shape (n,).
        asked: by the request.
        draw: a number in [0, 1).
    """
    open_ones = 0
    for i in range(len(views)):
        open_ones += may_take(views[i], asked)
    place = int(draw * open_ones)
    for i in range(len(views)):
        if may_take(views[i], asked):
            if place == 0:
                return i
            place -= 1
    return -1


def choose(views: Any, rule: int, asked: Asked, turn: int, draw: float, draw_2: float) -> int:
    """The replica that takes a request, -1 for none.

    Args:
        views: records of `VIEW`, shape (n,).
        rule: its code.
        asked: by the request.
        turn: the replica that was chosen last.
        draw: a number in [0, 1), for the rules that draw.
        draw_2: another.
    """
    if rule == ROUND_ROBIN:
        return next_in_turn(views, asked, turn)
    if rule == WEIGHTED:
        return weighted_turn(views, asked)
    if rule == RANDOM:
        return drawn(views, asked, draw)
    if rule == POWER_OF_TWO:
        first, second = drawn(views, asked, draw), drawn(views, asked, draw_2)
        if first >= 0 and cost_of(views[second], LEAST_REQUESTS, asked) < cost_of(views[first], LEAST_REQUESTS, asked):
            return second
        return first
    return cheapest(views, rule, asked, turn)
