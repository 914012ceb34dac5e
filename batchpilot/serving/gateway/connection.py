"""One HTTP/1.1 connection to the upstream: a request out, its answer in as it comes. Times in s.

Thousands of pieces of answers pass here every second, so the parser is compiled, a piece wakes its reader and nothing
else, and pieces that came together are read as one. General HTTP clients take several times as long.
"""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Callable
from typing import cast

import httptools

from batchpilot.serving.gateway.incoming import MOST_HEAD_BYTES, Headers, Incoming

MOST_UNREAD_BYTES = 2**18
"""Of an answer whose client is slow; the upstream has to wait beyond that."""

BROKE_OFF = "upstream_broke_off"

CLOSED_S = 1.0
"""A kept connection that breaks off sooner than this after a request, with nothing said, was closing already."""


class UpstreamError(Exception):
    """The upstream could not be reached, or broke off.

    Args:
        status: what the client is told, 502, 503 or 504.
        code: short name of the reason.
        reason: for people.
    """

    def __init__(self, status: int, code: str, reason: str) -> None:
        super().__init__(reason)
        self.status, self.code, self.reason = status, code, reason


class Connection(asyncio.Protocol):
    """Carries one request at a time. `send`, `piece` until it is empty, `release`; methods below those are asyncio's.

    Args:
        address: of the upstream, for messages.
        silence_s: how long the upstream may say nothing while it is listened to; None for ever.
        on_free: hears when it can carry another request.
        on_lost: hears when it is gone.

    Attributes:
        status: of the answer.
        headers: of the answer, as they came.
    """

    def __init__(
        self,
        address: str,
        silence_s: float | None,
        on_free: Callable[[Connection], None],
        on_lost: Callable[[Connection], None],
    ) -> None:
        self.status = 0
        self.headers: Headers = []
        self._address, self._silence_s = address, silence_s
        self._on_free, self._on_lost = on_free, on_lost
        self._loop = asyncio.get_running_loop()
        self._incoming = Incoming()
        self._failure: UpstreamError | None = None
        self._busy = self._sent = self._lost = self._paused = False
        self._waiter: asyncio.Future[None] | None = None
        self._writable: asyncio.Future[None] | None = None
        self._timer: asyncio.TimerHandle | None = None
        self._heard_s = self._sent_s = self._lost_s = 0.0
        self._uses = 0
        self._silent = True

    async def send(self, head: bytes, body: bytes | AsyncIterator[bytes], *, chunked: bool = False) -> None:
        """Send a request and wait for the head of its answer.

        Args:
            head: request line and headers with the blank line.
            body: whole or in pieces.
            chunked: whether pieces go as chunks.

        Raises:
            UpstreamError: no answer.
        """
        self._busy, self._sent, self._silent = True, False, True
        self._uses += 1
        self._sent_s = self._loop.time()
        self._incoming.expect(bodiless=head.startswith(b"HEAD "))
        self._watch()
        if isinstance(body, bytes):
            self._transport.write(head + body)
            self._sent = True
        else:
            self._transport.write(head)
            self._sent = await self._send_pieces(body, chunked)
        while not self._incoming.told:
            await self._more()
        self.status, self.headers = self._incoming.status, self._incoming.headers

    async def piece(self) -> bytes:
        """What has come of the body since the last call, encoded as it is; empty at its end.

        Raises:
            UpstreamError: it broke off.
        """
        incoming = self._incoming
        while not incoming.pieces:
            if incoming.complete:
                return b""
            await self._more()
        said = incoming.take()
        if self._paused and not self._lost:
            self._paused = False
            self._heard_s = self._loop.time()
            self._transport.resume_reading()
        return said

    @property
    def was_closing(self) -> bool:
        """Whether it was kept from an earlier request, and gone before this one can have been begun."""
        early = self._lost and self._silent and self._lost_s - self._sent_s < CLOSED_S
        return early and self._uses > 1 and self._failure is not None and self._failure.code == BROKE_OFF

    @property
    def closing(self) -> bool:
        """Whether it is gone or about to be."""
        return self._transport.is_closing()

    def release(self) -> None:
        """Nobody reads on: it may carry the next request if the answer is complete, else it closes."""
        if not self._busy:
            return
        self._busy = False
        if self._timer is not None:
            self._timer.cancel()
        if self._sent and self._incoming.reusable and not self.closing:
            self._on_free(self)
        else:
            self.close()

    def close(self) -> None:
        """Close at once, by which an upstream hears that nobody listens."""
        self._transport.abort()

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        """It is open."""
        self._transport = cast(asyncio.Transport, transport)

    def connection_lost(self, error: Exception | None) -> None:
        """It is gone."""
        self._lost, self._lost_s = True, self._loop.time()
        self._on_lost(self)
        if not (self._incoming.complete or (error is None and self._incoming.ends_with_connection())):
            self._fail(502, BROKE_OFF, "broke off the connection", error)
        self.resume_writing()
        self._wake()

    def data_received(self, data: bytes) -> None:
        """Part of an answer."""
        if not self._busy:
            self.close()
            return
        self._silent = False
        self._heard_s = self._loop.time()
        try:
            self._incoming.feed(data)
        except (httptools.HttpParserError, httptools.HttpParserUpgrade) as error:
            if not self._incoming.complete:
                self._fail(502, BROKE_OFF, "answered what is no HTTP", error)
            self.close()
        if self._incoming.too_large:
            if not self._incoming.complete:
                self._fail(502, "upstream_head_too_large", f"sent a head of more than {MOST_HEAD_BYTES} bytes")
            self.close()
        if self._incoming.unread_bytes > MOST_UNREAD_BYTES and not self._lost:
            self._paused = True
            self._transport.pause_reading()
        self._wake()

    def pause_writing(self) -> None:
        """The upstream reads slower than it is written to."""
        self._writable = self._loop.create_future()

    def resume_writing(self) -> None:
        """It has caught up, or is gone."""
        if self._writable is not None and not self._writable.done():
            self._writable.set_result(None)
        self._writable = None

    async def _send_pieces(self, body: AsyncIterator[bytes], chunked: bool) -> bool:
        """Pieces of a body as they come; whether all went before the upstream answered or left."""
        async for piece in body:
            if self._incoming.told or self._lost:
                return False
            self._transport.write(b"%x\r\n%b\r\n" % (len(piece), piece) if chunked else piece)
            if self._writable is not None:
                await self._writable
        if chunked:
            self._transport.write(b"0\r\n\r\n")
        return True

    async def _more(self) -> None:
        """Wait until something has come."""
        if self._failure is not None:
            raise self._failure
        self._waiter = self._loop.create_future()
        try:
            await self._waiter
        finally:
            self._waiter = None

    def _wake(self) -> None:
        if self._waiter is not None and not self._waiter.done():
            self._waiter.set_result(None)

    def _fail(self, status: int, code: str, said: str, error: Exception | None = None) -> None:
        if self._failure is None:
            because = f" ({type(error).__name__}: {error})" if error is not None else ""
            self._failure = UpstreamError(status, code, f"{self._address} {said}{because}")

    def _watch(self) -> None:
        if self._silence_s is not None:
            self._heard_s = self._loop.time()
            self._timer = self._loop.call_later(self._silence_s, self._check_silence, self._silence_s)

    def _check_silence(self, silence_s: float) -> None:
        """One timer for each request, put off while the upstream speaks, is cheaper than one for each piece."""
        left_s = silence_s if self._paused else self._heard_s + silence_s - self._loop.time()
        if left_s > 0:
            self._timer = self._loop.call_later(left_s, self._check_silence, silence_s)
        else:
            self._fail(504, "upstream_silent", f"said nothing for {silence_s:g} s")
            self.close()
            self._wake()
