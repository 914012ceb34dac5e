"""Where a request may go: to the only upstream, or to one after the other of several until one answers."""

from __future__ import annotations

from collections.abc import Awaitable, Callable, Mapping
from dataclasses import dataclass
from typing import Any, Protocol

from batchpilot.serving.gateway.beginning import Beginning
from batchpilot.serving.gateway.completions import Completion
from batchpilot.serving.gateway.connection import Connection
from batchpilot.serving.gateway.engines import Lanes
from batchpilot.serving.gateway.incoming import Headers
from batchpilot.serving.gateway.lane import Lane
from batchpilot.serving.gateway.upstream import Outgoing, Upstream
from batchpilot.serving.gateway.waiting import RefusedError, Ticket

UPSTREAM_HEADER, VERSION_HEADER = b"x-batchpilot-upstream", b"x-batchpilot-version"
DEGRADED_HEADER = b"x-batchpilot-degraded"


Sender = Callable[[Outgoing], Awaitable[Connection]]
"""As `Upstream.send`."""


@dataclass(frozen=True, slots=True)
class Way:
    """One way to an answer.

    Attributes:
        send: to the upstream.
        lane: of the engine there.
        headers: what the answer's head is given besides the upstream's own.
        hold: waits for an answer's beginning before anything of it goes to the client, so that another upstream can
            still answer; None where there is no other.
    """

    send: Sender
    lane: Lane
    headers: tuple[tuple[bytes, bytes], ...] = ()
    hold: Callable[[Awaitable[Beginning]], Awaitable[Beginning]] | None = None

    def head(self, headers: Headers) -> Headers:
        """An answer's headers with the way's own.

        Args:
            headers: the upstream's.
        """
        return [*headers, *self.headers] if self.headers else headers


class Journey(Protocol):
    """One request's ways, tried one after the other until something has gone to its client.

    Attributes:
        refused: what a gate said that would not let it through: a client is told that rather than what came of others.
    """

    refused: RefusedError | None

    def first(self) -> Way:
        """The way to begin with."""

    def another(self, *, failed: bool) -> Way | None:
        """The way to go on with, None when the client is to be told what the last one came to.

        Args:
            failed: whether the upstream was at fault; otherwise it refused, as a busy one may.
        """

    def over(self, ticket: Ticket) -> None:
        """The request has ended, in whatever way.

        Args:
            ticket: of the last way that was tried.
        """


class Ways(Protocol):
    """Begins journeys.

    Attributes:
        blocks: hashes of a prompt's leading blocks, None where nobody wants them.
    """

    blocks: Callable[[Mapping[str, Any]], tuple[int, ...]] | None

    def journey(self, asked: Completion | None, headers: Mapping[str, str]) -> Journey:
        """A request's journey.

        Args:
            asked: what it asks for, None for one that is no completion request.
            headers: of the request, by lower-case name.

        Raises:
            AskedError: nobody could ever answer it.
        """


class OneWay:
    """The only upstream: its own ways and every request's journey, which ends where it began.

    Args:
        upstream: where answers come from.
        lanes: of its engines.
    """

    blocks: Callable[[Mapping[str, Any]], tuple[int, ...]] | None = None

    def __init__(self, upstream: Upstream, lanes: Lanes) -> None:
        self._upstream, self._lanes = upstream, lanes

    def journey(self, asked: Completion | None, headers: Mapping[str, str]) -> Journey:
        """See `Ways`."""
        lane = self._lanes.first if asked is None else self._lanes.of(asked.model)
        return _Only(Way(self._upstream.send, lane))


@dataclass(slots=True)
class _Only:
    """A journey of one way."""

    way: Way
    refused: RefusedError | None = None

    def first(self) -> Way:
        return self.way

    def another(self, *, failed: bool) -> Way | None:
        return None

    def over(self, ticket: Ticket) -> None:
        pass
