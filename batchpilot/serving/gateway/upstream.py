"""The way to the upstream: requests and answers as they are, header by header and byte by byte."""

from __future__ import annotations

from collections.abc import AsyncIterator, Iterable
from urllib.parse import urlsplit

import httpx

from batchpilot.serving.gateway.settings import GatewaySettings

KEPT_S = 2.0
"""Idle connections are given up before servers do (uvicorn after 5 s), lest a request meets one that is closing."""

Headers = list[tuple[bytes, bytes]]

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

_SAYS_GATEWAY = (httpx.ConnectError, httpx.ConnectTimeout, httpx.PoolTimeout)


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


class Upstream:
    """A pool of connections to one server.

    Args:
        settings: its address and how patient to be.
    """

    def __init__(self, settings: GatewaySettings) -> None:
        address = urlsplit(settings.upstream)
        self.address = settings.upstream.rstrip("/")
        self._host = address.netloc.rpartition("@")[2].encode()
        self._url = httpx.URL(self.address + "/")
        self._prefix = address.path.rstrip("/").encode()
        limits = httpx.Limits(max_connections=None, max_keepalive_connections=None, keepalive_expiry=KEPT_S)
        self._transport = httpx.AsyncHTTPTransport(limits=limits, trust_env=False)
        timeout = httpx.Timeout(settings.silence_timeout_s, connect=settings.connect_timeout_s)
        self._extensions = {"timeout": timeout.as_dict()}

    async def send(
        self, method: str, target: bytes, headers: Iterable[tuple[bytes, bytes]], body: bytes | AsyncIterator[bytes]
    ) -> httpx.Response:
        """Send a request; the answer's head comes back, its body is read with `pieces`.

        Args:
            method: GET, POST and so on.
            target: path and query as they came.
            headers: as they came.
            body: whole or in pieces.

        Raises:
            UpstreamError: no answer.
        """
        forwarded = [(name, value) for name, value in end_to_end(headers) if name.lower() != b"host"]
        forwarded.insert(0, (b"host", self._host))
        request = httpx.Request(
            method,
            self._url.copy_with(raw_path=self._prefix + target),
            headers=forwarded,
            content=body,
            extensions=self._extensions,
        )
        try:
            return await self._transport.handle_async_request(request)
        except httpx.HTTPError as error:
            raise self._failure(error) from error

    async def pieces(self, answer: httpx.Response) -> AsyncIterator[bytes]:
        """The answer's body as it comes, encoded as it is.

        Args:
            answer: what `send` returned.

        Raises:
            UpstreamError: it broke off.
        """
        try:
            async for piece in answer.aiter_raw():
                yield piece
        except httpx.HTTPError as error:
            raise self._failure(error) from error

    async def close(self) -> None:
        """Close every connection."""
        await self._transport.aclose()

    def _failure(self, error: httpx.HTTPError) -> UpstreamError:
        said = f"{type(error).__name__}{f': {error}' if str(error) else ''}"
        if isinstance(error, _SAYS_GATEWAY):
            return UpstreamError(503, "upstream_unreachable", f"no connection to {self.address} ({said})")
        if isinstance(error, httpx.TimeoutException):
            return UpstreamError(504, "upstream_silent", f"{self.address} said nothing for too long ({said})")
        return UpstreamError(502, "upstream_broke_off", f"{self.address} broke off the connection ({said})")


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
