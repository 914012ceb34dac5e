"""The door of a fleet: every request, where it went, and what the router knows. Times in ms."""

from __future__ import annotations

import math
from collections.abc import Mapping
from typing import Any

import numpy as np
from numpy.typing import ArrayLike, NDArray

from batchpilot.core.names import lookup
from batchpilot.engines.scheduler.state import FAILED
from batchpilot.engines.simulated.loading import incoming_records
from batchpilot.fleet.arrays import (
    ALL_ROUTED,
    BUCKET,
    HANDOVER,
    NO_ROOM,
    NOT_HANDED,
    ROUTING,
    TALK,
    UNROUTED,
    FleetArrays,
)
from batchpilot.fleet.conversations import break_off
from batchpilot.fleet.kernel import run_fleet
from batchpilot.fleet.pools import Pools
from batchpilot.fleet.rate_limit import RateLimit
from batchpilot.fleet.replicas import Replicas
from batchpilot.fleet.routers import RULES, Router
from batchpilot.fleet.routing import place
from batchpilot.fleet.spec import Link
from batchpilot.workloads.table import RequestTable

_DRAW_STREAM = 31


class Door:
    """Routes requests to replicas.

    Args:
        requests: what arrives.
        router: how.
        replicas: to whom.
        rate_limits: a token bucket for every user, or by user.
        versions: that each request asks for, None for any.
        seed: of the rules that draw.
        link: between replicas of pools; None without pools.

    Attributes:
        arrays: what compiled code knows of the fleet.
        pools: what is between two replicas.
        retries: other replicas that a request tries.

    Raises:
        ValueError: `versions` is not a whole number a request.
    """

    def __init__(
        self,
        requests: RequestTable,
        router: Router,
        replicas: Replicas,
        rate_limits: RateLimit | Mapping[int, RateLimit] | None,
        versions: ArrayLike | None,
        seed: int,
        link: Link | None = None,
    ) -> None:
        n = len(requests)
        asked = _checked(versions, n)
        routing: Any = np.zeros(1, ROUTING).view(np.recarray)
        routing[0] = (
            *(0, router.code, router.poll_ms, 0.0, router.counts_sent, router.retries, router.breaker_failures),
            *(router.breaker_ms, router.degrade_ttft_ms, 0, 0),
            *((False, 0.0, 0.0, 0.0) if link is None else (True, link.ms_per_token, link.latency_ms, 0.0)),
            *(requests.turns is not None, 0),
        )
        incoming: Any = incoming_records(requests).copy().view(np.recarray)
        talks: Any = np.zeros(0 if requests.turns is None else n, TALK).view(np.recarray)
        if requests.turns is not None:
            first = requests.turns.first()
            coming = np.flatnonzero(first)
            talks["think_ms"], talks["following"] = requests.turns.think_ms, requests.turns.following()
            talks["coming"][: len(coming)] = coming  # in order of arrival, and so a heap
            routing[0].n_coming = len(coming)
            incoming["arrival_ms"][~first] = math.nan
        named = link is not None or requests.turns is not None
        handovers: Any = np.zeros(n if link is not None else 0, HANDOVER).view(np.recarray)
        handovers["stage"], handovers["target"] = NOT_HANDED, -1
        self.retries = router.retries
        self.pools = Pools(replicas, self)
        self._replicas = replicas
        self.arrays = FleetArrays(
            routing,
            np.full(2 * (int(asked.max(initial=-1)) + 2), -1, np.int64),
            replicas.views,
            incoming,
            asked,
            np.random.default_rng([seed, _DRAW_STREAM]).random((n, 2)),
            _buckets(rate_limits, requests),
            np.full((n, 3), UNROUTED, np.int64),
            replicas.links,
            replicas.lines,
            handovers,
            np.zeros((len(replicas), replicas.state.requests.shape[1] if named else 0), np.int64),
            replicas.prompts.chains,
            replicas.sent_blocks,
            replicas.prompts.images,
            talks,
        )

    @property
    def where(self) -> NDArray[np.int64]:
        """(replica, place in its row, what became of it at the door) by request, shape (n, 3)."""
        return self.arrays.where

    @property
    def arrived(self) -> int:
        """Requests that have arrived."""
        return int(self.arrays.routing[0].next)

    @property
    def closed(self) -> bool:
        """Whether nobody comes any more but turns that somebody's answer brings."""
        c = self.arrays.routing[0]
        return bool(c.n_coming == 0 if c.conversing else c.next == len(self.arrays.incoming))

    def turns_since(self, arrived: int) -> NDArray[np.int64]:
        """The turns of conversations that have come after so many, in order.

        Args:
            arrived: requests that had arrived.
        """
        return np.asarray(self.arrays.talks["came"][arrived : self.arrived])

    @property
    def retried(self) -> int:
        """Times that a request had to look for another replica."""
        return int(self.arrays.routing[0].retried)

    def route_by(self, rule: str) -> None:
        """Choose by another rule from now on; what it wants to know of replicas it sees at the next poll.

        Args:
            rule: a key of `RULES`.

        Raises:
            ValueError: an unknown rule.
        """
        self.arrays.routing[0].rule = lookup(RULES, rule, "routing rule")

    def advance(self, until_ms: float) -> None:
        """Route what arrives before a time, and run every replica up to it.

        Args:
            until_ms: fleet time.

        Raises:
            RuntimeError: a replica is stuck (a defect of the scheduler).
        """
        r = self._replicas
        while True:
            code = run_fleet(r.state, self.arrays, until_ms)
            if code == ALL_ROUTED:
                return
            if code != NO_ROOM:
                raise RuntimeError(f"a replica is stuck before {until_ms} ms: what waits there can never run")
            self._grow()

    def place_again(self, requests: NDArray[np.int64], now_ms: float) -> None:
        """Find other replicas for requests that lost theirs.

        Args:
            requests: which, shape (n,).
            now_ms: fleet time.
        """
        r = self._replicas
        for request in requests:
            if self.arrays.routing[0].fullest == r.state.requests.shape[1]:
                self._grow()
            place(r.state, self.arrays, int(request), now_ms)
            self.arrays.routing[0].retried += 1

    def break_off(self, requests: NDArray[np.int64], now_ms: float) -> None:
        """Requests are lost: later turns of their conversations are never asked.

        Args:
            requests: which, shape (n,).
            now_ms: fleet time.
        """
        if self.arrays.routing[0].conversing:
            for request in requests:
                break_off(self.arrays, int(request), FAILED, now_ms)

    def _grow(self) -> None:
        """Give every row twice the room."""
        self._replicas.grow()
        names = self.arrays.names
        self.arrays = self.arrays._replace(names=np.concatenate([names, np.zeros_like(names)], axis=1))

    def requests_at(self, i: int, places: NDArray[np.int64]) -> NDArray[np.int64]:
        """The requests in some places of a replica's row.

        Args:
            i: the replica.
            places: shape (n,).
        """
        mine = np.flatnonzero(self.where[:, 0] == i)
        return mine[np.isin(self.where[mine, 1], places)]


def _checked(versions: ArrayLike | None, n: int) -> NDArray[np.int64]:
    given = np.full(n, -1, np.int64) if versions is None else np.asarray(versions)
    if given.shape != (n,) or given.dtype.kind not in "iu":
        raise ValueError(f"versions has shape {given.shape}, type {given.dtype}; it must be a whole number a request")
    return given.astype(np.int64)


def _buckets(limits: RateLimit | Mapping[int, RateLimit] | None, requests: RequestTable) -> Any:
    buckets: Any = np.zeros(requests.users, BUCKET).view(np.recarray)
    buckets["rate_per_s"] = math.inf
    for code, user in enumerate(np.unique(requests.user).tolist()):
        limit = limits.get(user) if isinstance(limits, Mapping) else limits
        if limit is not None:
            buckets[code] = (limit.burst_tokens, limit.tokens_per_s, limit.burst_tokens, 0.0)
    return buckets
