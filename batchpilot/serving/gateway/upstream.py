"""The way to the upstream: requests and answers as they are, header by header and byte by byte."""

from __future__ import annotations

import asyncio
import ssl
from collections.abc import AsyncIterator, Iterable
from typing import NamedTuple
from urllib.parse import urlsplit

from batchpilot.serving.gateway.connection import Connection, UpstreamError
from batchpilot.serving.gateway.incoming import Headers
from batchpilot.serving.gateway.redirects import led_back
from batchpilot.serving.gateway.settings import GatewaySettings

KEPT_S = 2.0
"""Idle connections are given up before most servers do (uvicorn: 5 s), lest a request meets one that is closing."""

_HOP_BY_HOP = frozenset(
    name.encode()
    for name in (
        "connection",
        "keep-alive",
        "proxy-authenticate",
        "proxy-authorization",
        "proxy-connection",
        "te",
        "trailer",
        "transfer-encoding",
        "upgrade",
    )
)
"""Headers of one connection, not of the message (RFC 9110, section 7.6.1)."""

_OURS = frozenset((b"host", b"expect"))
"""Of a request, answered or replaced here: who is asked, and whether its body is wanted."""


class Outgoing(NamedTuple):
    """A request to an upstream.

    Attributes:
        method: GET, POST and so on.
        target: path and query as they came.
        headers: as they came.
        body: whole or in pieces.
        again: whether it may be sent twice: a completion may, what changes something there may not.
    """

    method: str
    target: bytes
    headers: Headers
    body: bytes | AsyncIterator[bytes] = b""
    again: bool = True


class Upstream:
    """Connections to one server, as many as there are requests at it.

    Args:
        settings: its address and how patient to be.
    """

    def __init__(self, settings: GatewaySettings) -> None:
        address = urlsplit(settings.upstream)
        self.address = settings.upstream.rstrip("/")
        self._prefix = address.path.rstrip("/").encode()
        self._host = address.netloc.rpartition("@")[2].encode()
        self._name = address.hostname or ""
        self._port = address.port or (443 if address.scheme == "https" else 80)
        self._tls = ssl.create_default_context() if address.scheme == "https" else None
        self._connect_s, self._silence_s = settings.connect_timeout_s, settings.silence_timeout_s
        self._idle: dict[Connection, asyncio.TimerHandle] = {}

    async def send(self, request: Outgoing) -> Connection:
        """Send a request.

        A server may close a kept connection at the moment a request goes out on it: that goes out once more, on a new
        one (RFC 9112, section 9.3.1).

        Args:
            request: the request.

        Returns:
            The connection, on which the answer's head has come and its body comes; its caller releases it.

        Raises:
            UpstreamError: no answer.
        """
        body = request.body
        forwarded = [(name, value) for name, value in end_to_end(request.headers) if name.lower() not in _OURS]
        measured = any(name.lower() == b"content-length" for name, _ in forwarded)
        chunked = not (measured or isinstance(body, bytes))
        if chunked:
            forwarded.append((b"transfer-encoding", b"chunked"))
        elif not measured and isinstance(body, bytes) and body:
            forwarded.append((b"content-length", b"%d" % len(body)))
        lines = [b"%b %b%b HTTP/1.1" % (request.method.encode(), self._prefix, request.target), b"host: " + self._host]
        lines += [b"%b: %b" % header for header in forwarded]
        head = b"\r\n".join(lines) + b"\r\n\r\n"
        kept = self._free()
        if kept is not None:
            try:
                return await self._told(kept, head, request, chunked)
            except UpstreamError:
                if not (request.again and isinstance(body, bytes) and kept.was_closing):
                    raise
        return await self._told(await self._opened(), head, request, chunked)

    async def _told(self, connection: Connection, head: bytes, request: Outgoing, chunked: bool) -> Connection:
        try:
            await connection.send(head, request.body, chunked=chunked)
            connection.headers = self._led_back(connection, request.method)
        except BaseException:
            connection.release()
            raise
        return connection

    def close(self) -> None:
        """Close every connection that carries nothing."""
        for connection in list(self._idle):
            connection.close()

    def _led_back(self, answer: Connection, method: str) -> Headers:
        """An answer's headers with the address that it redirects to as the gateway's own."""
        headers = []
        for name, value in answer.headers:
            if name.lower() == b"location":
                here = led_back(value.decode("latin-1"), self.address)
                if here is not None:
                    value = here.encode("latin-1")
                elif answer.status // 100 == 3 and method not in ("GET", "HEAD"):
                    reason = f"{self.address} sends {method} requests elsewhere, past the gateway: {value!r}"
                    raise UpstreamError(502, "upstream_redirects", reason)
            headers.append((name, value))
        return headers

    def _free(self) -> Connection | None:
        """The connection that was used last, None when none is idle."""
        while self._idle:
            connection, expiry = self._idle.popitem()
            expiry.cancel()
            if not connection.closing:
                return connection
        return None

    async def _opened(self) -> Connection:
        loop = asyncio.get_running_loop()
        try:
            async with asyncio.timeout(self._connect_s):
                _, connection = await loop.create_connection(
                    lambda: Connection(self.address, self._silence_s, self._keep, self._forget),
                    self._name,
                    self._port,
                    ssl=self._tls,
                )
        except TimeoutError:
            raise self._unreachable(f"not within {self._connect_s:g} s") from None
        except OSError as error:
            raise self._unreachable(f"{type(error).__name__}: {error}") from error
        return connection

    def _unreachable(self, why: str) -> UpstreamError:
        return UpstreamError(503, "upstream_unreachable", f"no connection to {self.address} ({why})")

    def _keep(self, connection: Connection) -> None:
        self._idle[connection] = asyncio.get_running_loop().call_later(KEPT_S, connection.close)

    def _forget(self, connection: Connection) -> None:
        expiry = self._idle.pop(connection, None)
        if expiry is not None:
            expiry.cancel()


def end_to_end(headers: Iterable[tuple[bytes, bytes]]) -> Headers:
    """Headers without those that belong to one connection.

    Args:
        headers: as they came.
    """
    headers = list(headers)
    named = {
        name.strip().lower() for key, value in headers if key.lower() == b"connection" for name in value.split(b",")
    }
    dropped = _HOP_BY_HOP | named
    return [(name, value) for name, value in headers if name.lower() not in dropped]
