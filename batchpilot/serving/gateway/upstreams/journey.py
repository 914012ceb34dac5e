"""One request's way from upstream to upstream, until one has begun to answer or all have been tried."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

from batchpilot.serving.gateway.answers import INVALID, UNREAD
from batchpilot.serving.gateway.completions import Completion
from batchpilot.serving.gateway.waiting import RefusedError, Ticket
from batchpilot.serving.gateway.ways import DEGRADED_HEADER, UPSTREAM_HEADER, VERSION_HEADER, Way

if TYPE_CHECKING:
    from batchpilot.serving.gateway.upstreams.pool import Pool


@dataclass(frozen=True, slots=True)
class Wish:
    """Who wants an answer, and of what.

    Attributes:
        number: of the request.
        asked: what it asks for, None for no completion.
        user: as it names itself, "" for nobody.
        version: it should have, -1 for any.
        bound: whether no other version will do.
    """

    number: int
    asked: Completion | None = None
    user: str = ""
    version: int = -1
    bound: bool = False


class SitesJourney:
    """One request's ways through a pool; see `Journey`.

    Args:
        pool: of the upstreams.
        wish: the request.

    Attributes:
        refused: see `Journey`.
    """

    def __init__(self, pool: Pool, wish: Wish) -> None:
        self._pool, self._wish = pool, wish
        self._tried: list[int] = []
        self._site = pool.sites[0]
        self._blamed = False
        self.refused: RefusedError | None = None

    def first(self) -> Way:
        """See `Journey`."""
        way = self._next()
        assert way is not None, "a version that somebody has was asked for, and nobody was tried"
        return way

    def another(self, *, failed: bool) -> Way | None:
        """See `Journey`."""
        if failed:
            self._site.failed()
            self._blamed = True
        if len(self._tried) > self._pool.fleet.retries:
            return None
        way = self._next()
        self._pool.retries += way is not None
        return way

    def over(self, ticket: Ticket) -> None:
        """See `Journey`."""
        if ticket.ended in ("finished", INVALID, UNREAD):
            self._site.breaker.succeeded()
        elif ticket.ended == "failed" and not self._blamed:
            self._site.failed()
        self._pool.heard(self._site, ticket)

    def _next(self) -> Way | None:
        pool, asked = self._pool, self._wish.asked
        index = pool.choose(self._wish, self._tried, well_only=self.refused is not None)
        if index < 0:
            return None
        self._tried.append(index)
        self._blamed = False
        site = self._site = pool.sites[index]
        site.breaker.sent(pool.now_ms())
        headers = [(UPSTREAM_HEADER, site.name.encode()), (VERSION_HEADER, str(site.spec.version).encode())]
        if site.spec.tier:
            pool.degraded += 1
            headers.append((DEGRADED_HEADER, b"tier-%d" % site.spec.tier))
        lanes = site.member.lanes
        if asked is not None:
            site.prefixes.remember(asked.blocks)
        lane = lanes.first if asked is None else lanes.of(asked.model)
        return Way(site.send, lane, tuple(headers), site.unless_ill)
