"""One completion request on its way through: read, wait, send, pass the answer on, whatever happens."""

from __future__ import annotations

import asyncio
import itertools
from collections.abc import AsyncIterator, Callable
from functools import partial

from batchpilot.serving.doors.bodies import Bodies, BodiesFullError, Share
from batchpilot.serving.gateway.answers import UNREAD, PassingAnswer
from batchpilot.serving.gateway.asgi import (
    LateBodyError,
    Receive,
    Scope,
    Send,
    body_pieces,
    unless_client_leaves,
)
from batchpilot.serving.gateway.beginning import UNHEARD, Beginning, hear_beginning
from batchpilot.serving.gateway.completions import Completion, read_completion
from batchpilot.serving.gateway.connection import Connection, UpstreamError
from batchpilot.serving.gateway.own_routes import AskedError
from batchpilot.serving.gateway.settings import GatewaySettings
from batchpilot.serving.gateway.telling import (
    body_length,
    error_event,
    target,
    tell_failure,
    tell_full,
    tell_late,
    tell_rate,
    tell_refusal,
)
from batchpilot.serving.gateway.upstream import Outgoing, end_to_end
from batchpilot.serving.gateway.upstreams.buckets import Buckets, key_of
from batchpilot.serving.gateway.waiting import FIRST_OUTPUT_TOKENS, MOVED, RefusedError, Ticket
from batchpilot.serving.gateway.ways import Journey, Way, Ways
from batchpilot.serving.gateway.whole_body import whole_body
from batchpilot.serving.outcomes import FAILED, SERVED

LEAST_BYTES_PER_S = 1e4
"""A body that goes through in pieces may take so long for its bytes, and `body_s` beside."""

_READ_BESIDE = 2**18
"""Longer bodies are read in a thread, one at a time, while streams go on."""

_HARMLESS = ("GET", "HEAD")
"""Methods that may be sent twice, whatever became of them the first time."""

TRIED_ELSEWHERE = frozenset((429, 500, 502, 503, 504))
"""Answers that are not passed on while there is another upstream to ask."""

_HELD_BYTES = 1_000_000
"""Bodies up to this are read before they are passed on, so that a client that leaves later is noticed."""


class Exchange:
    """Answers completion requests from an upstream, through its gate.

    Args:
        settings: paths, promises and bounds.
        ways: where answers come from.
        now_ms: the clock.

    Attributes:
        bodies: of requests, that are held now.
        buckets: of the API keys, None without a rate limit.
    """

    def __init__(self, settings: GatewaySettings, ways: Ways, now_ms: Callable[[], float]) -> None:
        self._settings, self._ways = settings, ways
        self._now_ms = now_ms
        self._numbers = itertools.count()
        self._reading = asyncio.Lock()
        self.bodies = Bodies(1e6 * max(settings.bodies_mb, settings.largest_body_mb))
        self.buckets = None if settings.rate_limit is None else Buckets(settings.rate_limit)

    async def complete(self, scope: Scope, receive: Receive, send: Send) -> None:
        """A request that waits at the gate.

        Args:
            scope: ASGI.
            receive: ASGI.
            send: ASGI.
        """
        try:
            with self.bodies.share(body_length(scope)) as share:
                await self._complete(share, scope, receive, send)
        except BodiesFullError as full:
            await tell_full(send, full)

    async def _complete(self, share: Share, scope: Scope, receive: Receive, send: Send) -> None:
        arrived_ms = self._now_ms()
        body = await whole_body(self._settings, share, scope, receive, send)
        if body is None:
            return
        headers = {name.decode("latin-1"): value.decode("latin-1") for name, value in scope["headers"]}
        settings = self._settings
        read = partial(read_completion, body, headers, settings.slo, settings.count_tokens, self._ways.blocks)
        if len(body) > _READ_BESIDE:
            async with self._reading:
                asked = await asyncio.to_thread(read)
        else:
            asked = read()
        if asked is None:
            await unless_client_leaves(receive, self._straight(scope, body, send))
        elif self.buckets is not None and (wait_s := self._wait_s(self.buckets, asked, key_of(headers))):
            await tell_rate(send, wait_s)
        else:
            try:
                journey = self._ways.journey(asked, headers)
            except AskedError as error:
                await error.tell(send)
                return
            await unless_client_leaves(receive, self._travel(journey, asked, arrived_ms, scope, body, send))

    def _wait_s(self, buckets: Buckets, asked: Completion, key: str) -> float:
        tokens = asked.prompt_tokens + asked.choices * asked.output_tokens(FIRST_OUTPUT_TOKENS)
        return buckets.take(key, tokens, self._now_ms() / 1000.0)

    async def pass_on(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Any other request: straight through, its body as it comes.

        Args:
            scope: ASGI.
            receive: ASGI.
            send: ASGI.
        """
        length = body_length(scope)
        if length is None or length > _HELD_BYTES:
            pieces = body_pieces(receive, self._settings.body_s, LEAST_BYTES_PER_S)
            try:
                await self._straight(scope, pieces, send)
            except LateBodyError as late:
                await tell_late(send, late)
        else:
            try:
                with self.bodies.share(length) as share:
                    await self._pass_whole(share, scope, receive, send)
            except LateBodyError as late:
                await tell_late(send, late)
            except BodiesFullError as full:
                await tell_full(send, full)

    async def _pass_whole(self, share: Share, scope: Scope, receive: Receive, send: Send) -> None:
        pieces = []
        if body_length(scope):
            async for piece in body_pieces(receive, self._settings.body_s):
                share.grow(len(piece))
                pieces.append(piece)
        await unless_client_leaves(receive, self._straight(scope, b"".join(pieces), send))

    async def _travel(
        self, journey: Journey, asked: Completion, arrived_ms: float, scope: Scope, body: bytes, send: Send
    ) -> None:
        way: Way | None = journey.first()
        while way is not None:
            turn = asyncio.get_running_loop().create_future()
            ticket = Ticket(next(self._numbers), asked, arrived_ms, turn)
            lane = way.lane
            lane.observer.arrived(ticket)
            try:
                way = await self._through_gate(journey, way, ticket, scope, body, send)
            except BaseException:
                way = None
                lane.observer.cancelled(ticket)
                raise
            finally:
                lane.gate.leave(ticket)
                if way is None:
                    journey.over(ticket)

    async def _through_gate(
        self, journey: Journey, way: Way, ticket: Ticket, scope: Scope, body: bytes, send: Send
    ) -> Way | None:
        """Answer by one way; where to go on when nothing was sent to the client, None when it has its answer."""
        observer = way.lane.observer
        try:
            await way.lane.gate.pass_through(ticket)
        except RefusedError as refused:
            if refused.code == MOVED:
                observer.cancelled(ticket, MOVED)
            else:
                observer.refused(ticket, refused.code)
                journey.refused = refused
            another = journey.another(failed=False)
            if another is None:
                await tell_refusal(send, refused)
            return another
        observer.sent(ticket)
        try:
            answer = await way.send(Outgoing(scope["method"], target(scope), scope["headers"], body))
        except UpstreamError as failure:
            return await self._go_on(journey, way, ticket, failure, send)
        try:
            passing = self._passing(way, ticket, answer)
            begun = UNHEARD if way.hold is None else await way.hold(hear_beginning(answer, passing))
            another = _instead(journey, answer, begun)
            if another is None:
                await self._pass_answer(way, ticket, answer, passing, begun, send)
            elif begun.verdict is not None:
                outcome, why = begun.verdict
                observer.judged(ticket, outcome, passing.reader, why)
            return another
        except UpstreamError as failure:
            return await self._go_on(journey, way, ticket, failure, send)
        finally:
            answer.release()

    async def _go_on(
        self, journey: Journey, way: Way, ticket: Ticket, failure: UpstreamError, send: Send
    ) -> Way | None:
        """Where a request goes on that an upstream failed before its client got anything, who is told where nowhere."""
        way.lane.observer.failed(ticket, failure.reason)
        another = journey.another(failed=True)
        if another is None and journey.refused is not None:
            await tell_refusal(send, journey.refused)
        elif another is None:
            await tell_failure(send, failure)
        return another

    def _passing(self, way: Way, ticket: Ticket, answer: Connection) -> PassingAnswer:
        kind, encoding = _header(answer, b"content-type"), _header(answer, b"content-encoding")
        tokens_per_event = way.lane.observer.tokens_per_event
        count, asked = self._settings.count_tokens, ticket.completion
        return PassingAnswer(
            answer.status, kind, encoding, tokens_per_event, count, streams=asked.streams, most=asked.max_tokens
        )

    async def _pass_answer(
        self, way: Way, ticket: Ticket, answer: Connection, passing: PassingAnswer, begun: Beginning, send: Send
    ) -> None:
        observer, reader = way.lane.observer, passing.reader
        await _head(way, answer, send)
        if begun.said:
            await send({"type": "http.response.body", "body": begun.said, "more_body": True})
            if begun.tokens > 0:
                observer.spoke(ticket, begun.tokens, begun.events)
        try:
            while piece := await answer.piece():
                await send({"type": "http.response.body", "body": piece, "more_body": True})
                # A step's tokens come all at once: everybody's go out before anybody's are counted.
                await asyncio.sleep(0)
                events = reader.events
                tokens = passing.hear(piece)
                if tokens > 0:
                    observer.spoke(ticket, tokens, reader.events - events)
        except UpstreamError as failure:
            said_all, between_events = reader.ended, reader.between_events
            outcome, _ = passing.ended(complete=False)
            observer.judged(ticket, outcome if said_all else FAILED, reader, failure.reason)
            streams = _header(answer, b"content-type").lower().startswith(b"text/event-stream")
            if streams and passing.plain and not said_all:
                await send({"type": "http.response.body", "body": error_event(failure, between_events)})
            # Without a last piece the server cuts the connection, which tells the client that something is missing.
            return
        outcome, why = begun.verdict or passing.ended()
        observer.judged(ticket, outcome, reader, why)
        await send({"type": "http.response.body", "body": b""})

    async def _straight(self, scope: Scope, body: bytes | AsyncIterator[bytes], send: Send) -> None:
        journey = self._ways.journey(None, {})
        way: Way | None = journey.first()
        harmless = scope["method"] in _HARMLESS
        request = Outgoing(scope["method"], target(scope), scope["headers"], body, again=harmless)
        while way is not None:
            try:
                answer = await way.send(request)
            except UpstreamError as failure:
                reached = failure.code != "upstream_unreachable"
                again = isinstance(body, bytes) and (harmless or not reached)
                another = journey.another(failed=True)
                if another is None or not again:
                    await tell_failure(send, failure)
                    return
                way = another
                continue
            try:
                await _head(way, answer, send)
                while piece := await answer.piece():
                    await send({"type": "http.response.body", "body": piece, "more_body": True})
            except UpstreamError:
                return
            finally:
                answer.release()
            await send({"type": "http.response.body", "body": b""})
            return


def _instead(journey: Journey, answer: Connection, begun: Beginning) -> Way | None:
    """Where a request goes on whose answer is none and need not be seen; None where it is to be passed on."""
    if begun.verdict is None:
        return None
    outcome, _ = begun.verdict
    if answer.status not in TRIED_ELSEWHERE and (answer.status != 200 or outcome in (SERVED, UNREAD)):
        return None
    return journey.another(failed=outcome == FAILED)


def _header(answer: Connection, wanted: bytes) -> bytes:
    return next((value for name, value in answer.headers if name.lower() == wanted), b"")


async def _head(way: Way, answer: Connection, send: Send) -> None:
    headers = way.head(end_to_end(answer.headers))
    await send({"type": "http.response.start", "status": answer.status, "headers": headers})
