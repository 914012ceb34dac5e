"""What a body may be before anybody reads it: so many bytes, in so much time, not compressed, beside so many others.

HEAD is read as GET.
"""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable, Mapping, MutableMapping
from contextlib import suppress
from typing import Any, NamedTuple

from starlette.requests import ClientDisconnect

from batchpilot.serving.doors.bodies import RETRY_S, Bodies, BodiesFullError, Share
from batchpilot.serving.server.errors import ApiError
from batchpilot.serving.server.json_answers import JsonAnswer

Message = MutableMapping[str, Any]
Receive = Callable[[], Awaitable[Message]]
Send = Callable[[Message], Awaitable[None]]
Application = Callable[[MutableMapping[str, Any], Receive, Send], Awaitable[None]]

LEAST_BODY_BYTES = 4 * 2**20
BYTES_PER_TOKEN = 32
"""Room for a token in JSON: its id with a comma, or its characters escaped."""

_CLOSE = {"Connection": "close"}


class Bound(NamedTuple):
    """How much a body may be.

    Attributes:
        size: bytes.
        seconds: in which it must have come.
    """

    size: int
    seconds: float


def request_bytes(longest: int) -> int:
    """Most bytes of every body that is JSON: 4 MiB, or what the longest request may take.

    Args:
        longest: most tokens of a request.
    """
    return max(LEAST_BODY_BYTES, BYTES_PER_TOKEN * longest)


class Incoming:
    """ASGI around an application, so that no body is buffered beyond its bound or waited for beyond its time.

    Args:
        app: the application.
        bound: of bodies.
        special: other bounds by path.
        most_bytes: of all bodies that are held at once, until they are answered; or one of the largest.
    """

    def __init__(self, app: Application, bound: Bound, special: Mapping[str, Bound], most_bytes: float) -> None:
        self._app, self._bound, self._special = app, bound, dict(special)
        self._bodies = Bodies(max(most_bytes, *(each.size for each in (bound, *special.values()))))

    async def __call__(self, scope: MutableMapping[str, Any], receive: Receive, send: Send) -> None:
        """Serve one request.

        Args:
            scope: ASGI.
            receive: likewise.
            send: likewise.
        """
        if scope["type"] != "http":
            await self._app(scope, receive, send)
            return
        bound = self._special.get(scope["path"], self._bound)
        headers = dict(scope["headers"])
        refusal = _refusal(headers, bound)
        if refusal is None:
            try:
                with self._bodies.share(_length(headers)) as share:
                    await self._pass(scope, _Body(receive, bound, share).receive, send)
                return
            except BodiesFullError as full:
                refusal = _full(full, _kept(headers))
        await JsonAnswer(refusal.body, refusal.status, refusal.headers)(scope, receive, send)

    async def _pass(self, scope: MutableMapping[str, Any], receive: Receive, send: Send) -> None:
        if scope["method"] == "HEAD":
            # The server leaves the body of the answer out by its own copy of the scope.
            scope = {**scope, "method": "GET"}
        # Nobody is left to be told, and nothing is wrong here.
        with suppress(ClientDisconnect):
            await self._app(scope, receive, send)


class _Body:
    """A body as it comes: raises where it is read as soon as it is too much or too late."""

    def __init__(self, receive: Receive, bound: Bound, share: Share) -> None:
        self._receive, self._bound, self._share = receive, bound, share
        self._size = 0
        self._complete = False
        self._deadline = asyncio.get_running_loop().time() + bound.seconds

    async def receive(self) -> Message:
        if self._complete:
            return await self._receive()
        try:
            async with asyncio.timeout_at(self._deadline):
                message = await self._receive()
        except TimeoutError:
            text = f"{self._size} bytes of the body came in {self._bound.seconds:g} s, and it is not complete"
            raise ApiError(408, text, code="body_timeout", headers=_CLOSE) from None
        if message["type"] == "http.request":
            size = len(message.get("body", b""))
            self._size += size
            self._complete = not message.get("more_body", False)
            if self._size > self._bound.size:
                raise _too_large(f"at least {self._size}", self._bound, {})
            try:
                self._share.grow(size)
            except BodiesFullError as full:
                # What the framework passes on wherever a body is read.
                raise _full(full, {}) from None
        return message


def _refusal(headers: Mapping[bytes, bytes], bound: Bound) -> ApiError | None:
    """Why a body need not even be read."""
    encoding = headers.get(b"content-encoding", b"identity").decode("latin-1")
    if encoding.lower() not in ("", "identity"):
        message = f"the body is encoded with {encoding[:40]!r}; send it as it is"
        return ApiError(415, message, param="content-encoding", code="unsupported_encoding", headers=_kept(headers))
    length = _length(headers)
    if length > bound.size:
        return _too_large(str(length), bound, _kept(headers))
    return None


def _length(headers: Mapping[bytes, bytes]) -> int:
    """Bytes of a body, 0 where the headers do not say."""
    length = headers.get(b"content-length", b"0")
    return int(length) if length.isdigit() else 0


def _kept(headers: Mapping[bytes, bytes]) -> dict[str, str]:
    """Who sends before it listens would not hear why if the connection were closed; who asks first does."""
    return _CLOSE if b"expect" in headers else {}


def _too_large(size: str, bound: Bound, headers: Mapping[str, str]) -> ApiError:
    message = f"the body has {size} bytes; at most {bound.size} are taken here"
    return ApiError(413, message, code="body_too_large", headers=headers)


def _full(full: BodiesFullError, headers: Mapping[str, str]) -> ApiError:
    return ApiError(503, str(full), code="bodies_full", headers={"Retry-After": str(RETRY_S), **headers})
