"""One completion request on its way through: read, wait, send, pass the answer on, whatever happens."""

from __future__ import annotations

import asyncio
import itertools
from collections.abc import AsyncIterator, Callable
from functools import partial

from batchpilot.core.files import json_text
from batchpilot.serving.answers import FAILED
from batchpilot.serving.doors.bodies import RETRY_S, Bodies, BodiesFullError, Share
from batchpilot.serving.gateway.answers import PassingAnswer
from batchpilot.serving.gateway.asgi import (
    LateBodyError,
    Receive,
    Scope,
    Send,
    answer_json,
    body_pieces,
    error_content,
    unless_client_leaves,
)
from batchpilot.serving.gateway.completions import read_completion
from batchpilot.serving.gateway.connection import Connection, UpstreamError
from batchpilot.serving.gateway.gate import Gate
from batchpilot.serving.gateway.observer import Observer
from batchpilot.serving.gateway.settings import GatewaySettings
from batchpilot.serving.gateway.upstream import Upstream, end_to_end
from batchpilot.serving.gateway.waiting import RefusedError, Ticket

RETRY_UPSTREAM_S = 2

LEAST_BYTES_PER_S = 1e4
"""A body that goes through in pieces may take so long for its bytes, and `body_s` beside."""

MOST_VALUES = 2**21
"""Of JSON in a completion request, counted by commas, those in texts too: twice as many as the longest contexts have
tokens. Parsing tens of millions, or what they would take in memory, nobody could wait for."""

_READ_BESIDE = 2**18
"""Longer bodies are read in a thread, one at a time, while streams go on."""

_HELD_BYTES = 1_000_000
"""Bodies up to this are read before they are passed on, so that a client that leaves later is noticed."""


class Exchange:
    """Answers completion requests from the upstream, through the gate.

    Args:
        settings: paths, promises and bounds.
        upstream: where answers come from.
        gate: who may go.
        observer: hears what happens.
        now_ms: the clock.

    Attributes:
        bodies: of requests, that are held now.
    """

    def __init__(
        self,
        settings: GatewaySettings,
        upstream: Upstream,
        gate: Gate,
        observer: Observer,
        now_ms: Callable[[], float],
    ) -> None:
        self._settings, self._upstream, self._gate, self._observer = settings, upstream, gate, observer
        self._now_ms = now_ms
        self._numbers = itertools.count()
        self._reading = asyncio.Lock()
        self.bodies = Bodies(1e6 * max(settings.bodies_mb, settings.largest_body_mb))

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
        body = await self._whole_body(share, scope, receive, send)
        if body is None:
            return
        headers = {name.decode("latin-1"): value.decode("latin-1") for name, value in scope["headers"]}
        read = partial(read_completion, body, headers, self._settings.slo, self._settings.count_tokens)
        if len(body) > _READ_BESIDE:
            async with self._reading:
                asked = await asyncio.to_thread(read)
        else:
            asked = read()
        if asked is None:
            await unless_client_leaves(receive, self._straight(scope, body, send))
            return
        turn = asyncio.get_running_loop().create_future()
        ticket = Ticket(next(self._numbers), asked, arrived_ms, turn)
        self._observer.arrived(ticket)
        try:
            await unless_client_leaves(receive, self._through_gate(ticket, scope, body, send))
        except BaseException:
            self._observer.cancelled(ticket)
            raise
        finally:
            self._gate.leave(ticket)

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

    async def _through_gate(self, ticket: Ticket, scope: Scope, body: bytes, send: Send) -> None:
        try:
            await self._gate.pass_through(ticket)
        except RefusedError as refused:
            self._observer.refused(ticket, refused.code)
            await tell_refusal(send, refused)
            return
        self._observer.sent(ticket)
        try:
            answer = await self._upstream.send(scope["method"], target(scope), scope["headers"], body)
        except UpstreamError as failure:
            self._observer.failed(ticket, failure.reason)
            await tell_failure(send, failure)
            return
        try:
            await self._pass_answer(ticket, answer, send)
        finally:
            answer.release()

    async def _pass_answer(self, ticket: Ticket, answer: Connection, send: Send) -> None:
        kind = _header(answer, b"content-type")
        passing = PassingAnswer(
            answer.status,
            kind,
            _header(answer, b"content-encoding"),
            self._observer.tokens_per_event,
            self._settings.count_tokens,
        )
        reader = passing.reader
        await _head(answer, send)
        try:
            while piece := await answer.piece():
                await send({"type": "http.response.body", "body": piece, "more_body": True})
                # A step's tokens come all at once: everybody's go out before anybody's are counted.
                await asyncio.sleep(0)
                events = reader.events
                tokens = passing.hear(piece)
                if tokens > 0:
                    self._observer.spoke(ticket, tokens, reader.events - events)
        except UpstreamError as failure:
            said_all = reader.ended
            outcome, _ = passing.ended(complete=False)
            self._observer.judged(ticket, outcome if said_all else FAILED, reader, failure.reason)
            if kind.lower().startswith(b"text/event-stream") and passing.plain and not said_all:
                await send({"type": "http.response.body", "body": _event(failure, reader.between_events)})
            # Without a last piece the server cuts the connection, which tells the client that something is missing.
            return
        outcome, why = passing.ended()
        self._observer.judged(ticket, outcome, reader, why)
        await send({"type": "http.response.body", "body": b""})

    async def _straight(self, scope: Scope, body: bytes | AsyncIterator[bytes], send: Send) -> None:
        try:
            answer = await self._upstream.send(scope["method"], target(scope), scope["headers"], body)
        except UpstreamError as failure:
            await tell_failure(send, failure)
            return
        try:
            await _head(answer, send)
            while piece := await answer.piece():
                await send({"type": "http.response.body", "body": piece, "more_body": True})
        except UpstreamError:
            return
        finally:
            answer.release()
        await send({"type": "http.response.body", "body": b""})

    async def _whole_body(self, share: Share, scope: Scope, receive: Receive, send: Send) -> bytes | None:
        """The body, None when it was too large or too late and that has been told."""
        most = self._settings.largest_body_mb * 1e6
        length = body_length(scope) or 0
        pieces: list[bytes] = []
        values = 0
        if length <= most:
            length = 0
            try:
                async for piece in body_pieces(receive, self._settings.body_s):
                    share.grow(len(piece))
                    pieces.append(piece)
                    length += len(piece)
                    values += piece.count(b",")
                    if length > most or values > MOST_VALUES:
                        break
                else:
                    return b"".join(pieces)
            except LateBodyError as late:
                await tell_late(send, late)
                return None
        message = f"the request has at least {length} bytes; the gateway takes {most:.0f} of a completion request"
        if values > MOST_VALUES:
            message = f"the request has more than {MOST_VALUES} values or commas; the gateway reads no more"
        await answer_json(send, 413, error_content(message, "request_too_large", "invalid_request_error"))
        return None


def target(scope: Scope) -> bytes:
    """Path and query as the client wrote them.

    Args:
        scope: ASGI.
    """
    path: bytes = scope.get("raw_path") or scope["path"].encode()
    query: bytes = scope.get("query_string", b"")
    return path + b"?" + query if query else path


def body_length(scope: Scope) -> int | None:
    """Bytes of a request's body; None where the headers do not say.

    Args:
        scope: ASGI.
    """
    headers = dict(scope["headers"])
    if b"transfer-encoding" in headers:
        return None
    length: bytes = headers.get(b"content-length", b"0")
    return int(length) if length.isdigit() else None


async def tell_late(send: Send, late: LateBodyError) -> None:
    """408, and why; the connection is closed, as the rest of the body would be taken for a request.

    Args:
        send: ASGI.
        late: what has come.
    """
    content = error_content(str(late), "body_timeout", "timeout_error")
    await answer_json(send, 408, content, [(b"connection", b"close")])


async def tell_full(send: Send, full: BodiesFullError) -> None:
    """503, when to come again, and why.

    Args:
        send: ASGI.
        full: why.
    """
    await answer_json(send, 503, error_content(str(full), "bodies_full"), [(b"retry-after", str(RETRY_S).encode())])


async def tell_refusal(send: Send, refused: RefusedError) -> None:
    """503, when to come again, and why.

    Args:
        send: ASGI.
        refused: why.
    """
    message = f"The server is at its limit: {refused.reason}. Retry in {refused.retry_after_s} s."
    headers = [(b"retry-after", str(refused.retry_after_s).encode())]
    await answer_json(send, 503, error_content(message, refused.code), headers)


async def tell_failure(send: Send, failure: UpstreamError) -> None:
    """502, 503 or 504, and why.

    Args:
        send: ASGI.
        failure: what happened.
    """
    headers = [(b"retry-after", str(RETRY_UPSTREAM_S).encode())] if failure.status == 503 else []
    await answer_json(send, failure.status, error_content(failure.reason, failure.code), headers)


def _header(answer: Connection, wanted: bytes) -> bytes:
    return next((value for name, value in answer.headers if name.lower() == wanted), b"")


async def _head(answer: Connection, send: Send) -> None:
    headers = end_to_end(answer.headers)
    await send({"type": "http.response.start", "status": answer.status, "headers": headers})


def _event(failure: UpstreamError, between_events: bool) -> bytes:
    """The failure as the last event of a stream that broke off."""
    event = b"data: " + json_text(error_content(failure.reason, failure.code)).encode() + b"\n\n"
    return event if between_events else b"\n\n" + event
