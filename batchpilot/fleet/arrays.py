"""What a router is, knows and decides, as arrays that compiled and plain code read alike. Times in ms."""

from __future__ import annotations

from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray

VIEW = np.dtype(
    [
        ("on", "i1"),
        ("draining", "i1"),
        ("dead", "i1"),
        ("suspected", "i1"),
        ("version", "i4"),
        ("tier", "i4"),
        ("ready_ms", "f8"),
        ("open_until_ms", "f8"),
        ("weight", "f8"),
        ("credit", "f8"),
        ("requests", "i8"),
        ("queued_tokens", "i8"),
        ("sent", "i8"),
        ("sent_tokens", "i8"),
        ("full_step_ms", "f8"),
        ("full_step_tokens", "f8"),
        ("failures", "i8"),
        ("tried_by", "i8"),
        ("held", "i8"),
        ("kind", "i4"),
    ],
    align=True,
)
"""One record a replica. What it is: `on` (it exists), `draining` (takes no more), `ready_ms` (when it has started),
`version`, `tier` (0 the model asked for, 1 a smaller one), `weight`, `kind` (a place in the fleet's specs). What is
believed: `suspected` by a health check, left alone `open_until_ms` by the circuit breaker after so many `failures` in
a row. What was seen at the last poll: `requests` that run or wait, `queued_tokens` of prompts without a first token,
cached ones aside, how long a full step takes and how many prompt tokens it holds; `sent` and `sent_tokens` since. Of
the request that is being placed, the prompt tokens that are `held` in the prefix cache. `dead` is the truth, which no
router knows before it tries. `credit` belongs to weighted round robin, `tried_by` is the request that failed to reach
it."""

DECODES = 2
"""Added to the `tier` of a replica that only decodes: no request that arrives asks for it, those handed over do."""


ROUTING = np.dtype(
    [
        ("next", "i8"),
        ("rule", "i8"),
        ("poll_ms", "f8"),
        ("next_poll_ms", "f8"),
        ("counts_sent", "i1"),
        ("retries", "i8"),
        ("breaker_failures", "i8"),
        ("breaker_ms", "f8"),
        ("degrade_ttft_ms", "f8"),
        ("retried", "i8"),
        ("fullest", "i8"),
        ("pooled", "i1"),
        ("ms_per_token", "f8"),
        ("latency_ms", "f8"),
        ("next_handover_poll_ms", "f8"),
        ("conversing", "i1"),
        ("n_coming", "i8"),
    ],
    align=True,
)
"""The router: the request that arrives next, its settings, how often it had to try again, and
the requests of the row that has most; where replicas are `pooled`, what a link takes for a token and at its end,
and when those that decode are looked at next; whether requests are turns (`conversing`), and how many have a time and
have not come. `next` counts those that came then."""

BUCKET = np.dtype([("tokens", "f8"), ("rate_per_s", "f8"), ("burst", "f8"), ("filled_ms", "f8")], align=True)
"""A user's token bucket: what is in it, what flows in a second, what it holds, and when that was."""

LINK = np.dtype([("role", "i1"), ("wake_ms", "f8"), ("free_ms", "f8"), ("seen", "i8")], align=True)
"""One record a replica, for those of pools: its role, when it can next do something (its clock may be later), when its
link is free, and how many of its requests had ended when somebody last looked for prompts that are done."""

TALK = np.dtype([("think_ms", "f8"), ("following", "i8"), ("coming", "i8"), ("came", "i8")])
"""Of conversations, by request: the time before it is asked and the turn `following` it, -1 for none. Beside them two
lines of requests: those `coming`, as a heap by arrival, and those that `came`, in order."""

WHOLE, PREFILL, DECODE = range(3)
"""Roles: serves whole requests, their prompts, the rest of them."""

HANDOVER = np.dtype(
    [
        ("stage", "i1"),
        ("next", "i8"),
        ("source", "i8"),
        ("place", "i8"),
        ("target", "i8"),
        ("blocks", "i8"),
        ("shared", "i8"),
        ("ready_ms", "f8"),
        ("end_ms", "f8"),
    ],
    align=True,
)
"""One record a request: where it stands between prefill and decode, who is behind it there, the replica and place that
prefilled it and keeps its KV blocks, the replica that will decode it with the `blocks` that it holds there, of which
those `shared` were in the prefix cache and need not be moved, when its first token was made and when its KV has
come."""

MADE, WAITING, MOVING, HANDED, NOT_HANDED = range(5)
"""Stages, the first three of them lines: the first token is being made (line by the replica that prefilled), KV waits
for room, KV moves (both by the replica that will decode), KV has come; and none of it."""

FIRST, LAST, COUNT = range(3)
"""What is known of a line."""

PLACED, NOBODY, LIMITED, UNREACHED, BROKEN_OFF = range(5)
"""What became of a request at the door: a replica has it; no replica could take it; its user's bucket was empty; every
replica that it tried was dead; it was never asked, since an earlier turn of its conversation was not answered."""

UNROUTED = -1
"""The same of one that has not arrived."""

ALL_ROUTED, NO_ROOM, STUCK_FLEET = range(3)
"""What became of a run to some time: the time is reached; a replica's row is full; a replica can never run what waits
there."""


class FleetArrays(NamedTuple):
    """Everything about a fleet but its replicas' schedulers.

    Attributes:
        routing: one record of `ROUTING`.
        turns: the replica chosen last for each version, those that ask for none first, shape (versions + 1,); then
            the same of those that decode.
        views: records of `VIEW`, shape (replicas,).
        incoming: records of `REQUEST` in order of arrival, shape (n,). Of a turn whose time is not known that is NaN,
            and one that was broken off has its end.
        versions: that each request asks for, -1 for any, shape (n,).
        draws: two numbers in [0, 1) a request, shape (n, 2).
        buckets: records of `BUCKET` by user.
        where: (replica, place in its row, what became of it at the door) by request, shape (n, 3).
        links: records of `LINK`, shape (replicas,).
        lines: requests of the stages `MADE` to `MOVING`: (first, last, count), shape (3, replicas, 3).
        handovers: records of `HANDOVER`, shape (n,); none without pools.
        names: the request in each place of a row, shape (replicas, places); none without pools or conversations.
        chains: records of `CHAIN` by kind of replica and request, shape (kinds, n); none without a prefix cache.
        sent_blocks: one more than how often the router had looked at a replica when it last sent it a block, by replica
            and content, shape (replicas, contents); none without a prefix cache.
        images: records of `IMAGE`, those of a request together; none without images.
        talks: records of `TALK`, shape (n,); none without conversations.
    """

    routing: Any
    turns: NDArray[np.int64]
    views: Any
    incoming: Any
    versions: NDArray[np.int64]
    draws: NDArray[np.float64]
    buckets: Any
    where: NDArray[np.int64]
    links: Any
    lines: NDArray[np.int64]
    handovers: Any
    names: NDArray[np.int64]
    chains: NDArray[np.void]
    sent_blocks: NDArray[np.int32]
    images: NDArray[np.void]
    talks: Any


def new_views(replicas: int) -> NDArray[np.void]:
    """Views of replicas that do not exist yet.

    Args:
        replicas: how many.
    """
    views = np.zeros(replicas, VIEW)
    views["weight"] = 1.0
    views["tried_by"] = -1
    views["full_step_ms"] = views["full_step_tokens"] = 1.0
    return views
