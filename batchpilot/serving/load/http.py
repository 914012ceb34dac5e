"""A small HTTP/1.1 client for very many answers at a time: one event loop, as many connections as requests."""

from __future__ import annotations

import asyncio
import ssl
from dataclasses import dataclass
from typing import Self
from urllib.parse import urlsplit

from batchpilot.serving.load.responses import HttpError, Listener, ResponseReader

_PORTS = {"http": 80, "https": 443}


@dataclass(frozen=True, slots=True)
class Address:
    """Where a server is.

    Attributes:
        scheme: `http` or `https`.
        host: name or address.
        port: number.
        path: what stands before every route, "" or beginning with a slash.
    """

    scheme: str
    host: str
    port: int
    path: str = ""

    @classmethod
    def parse(cls, url: str) -> Self:
        """Read a server's base address; the `/v1` that OpenAI's clients want at its end may be there.

        Args:
            url: as typed.

        Raises:
            ValueError: no address of a server.
        """
        try:
            parts = urlsplit(url.strip())
            port = parts.port
        except ValueError as error:
            raise ValueError(f"the URL {url!r} cannot be read ({error}); give http://127.0.0.1:8000") from None
        if parts.scheme not in _PORTS or not parts.hostname:
            raise ValueError(f"the URL is {url!r}; it must begin with http:// or https:// and name a host")
        if parts.query or parts.fragment:
            raise ValueError(f"the URL is {url!r}; a server's base address has no ? or #")
        path = parts.path.rstrip("/").removesuffix("/v1").rstrip("/")
        return cls(parts.scheme, parts.hostname, port or _PORTS[parts.scheme], path)

    @property
    def authority(self) -> str:
        """Host and port as the `Host` header names them."""
        host = f"[{self.host}]" if ":" in self.host else self.host
        return host if self.port == _PORTS[self.scheme] else f"{host}:{self.port}"

    def __str__(self) -> str:
        return f"{self.scheme}://{self.authority}{self.path}"


class _Connection(asyncio.Protocol):
    """One connection, one exchange at a time."""

    def __init__(self) -> None:
        self.used = False
        self._reader = ResponseReader()
        self._transport: asyncio.Transport | None = None
        self._done: asyncio.Future[None] | None = None

    @property
    def free(self) -> bool:
        """Whether another request may be sent on it."""
        transport = self._transport
        return (
            self._reader.complete and self._reader.keep_alive and transport is not None and not transport.is_closing()
        )

    @property
    def heard(self) -> bool:
        """Whether anything of the present response has come."""
        return self._reader.begun

    async def exchange(self, request: bytes, listener: Listener) -> None:
        """Send a request and hear its response to the end.

        Raises:
            HttpError: it did not come to its end.
        """
        if self._transport is None:
            raise HttpError("not connected")
        self._done = asyncio.get_running_loop().create_future()
        self._reader.expect(listener)
        self._transport.write(request)
        await self._done

    def close(self) -> None:
        """Close at once, whatever is under way."""
        if self._transport is not None:
            self._transport.abort()

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        """As asyncio wants it."""
        assert isinstance(transport, asyncio.Transport)
        self._transport = transport

    def data_received(self, data: bytes) -> None:
        """As asyncio wants it."""
        if self._done is None or self._done.done():
            self.close()
            return
        try:
            self._reader.hear(data)
        except HttpError as error:
            self._fail(error)
            return
        if self._reader.complete:
            self._done.set_result(None)

    def connection_lost(self, exc: Exception | None) -> None:
        """As asyncio wants it."""
        if self._done is None or self._done.done():
            return
        if exc is not None:
            self._fail(HttpError(f"{type(exc).__name__}: {exc}"))
            return
        try:
            self._reader.end()
        except HttpError as error:
            self._fail(error)
        else:
            self._done.set_result(None)

    def _fail(self, error: HttpError) -> None:
        if self._done is not None:
            self._done.set_exception(error)
        self.close()


class HttpClient:
    """Sends requests to one server; connections that are free are used again.

    Args:
        address: the server's.
        headers: sent with every request.
    """

    def __init__(self, address: Address, headers: dict[str, str] | None = None) -> None:
        self._address = address
        self._head = "".join(f"{name}: {value}\r\n" for name, value in _common(address, headers or {}).items())
        self._tls = ssl.create_default_context() if address.scheme == "https" else None
        self._free: list[_Connection] = []

    async def exchange(
        self, method: str, path: str, listener: Listener, body: bytes = b"", headers: dict[str, str] | None = None
    ) -> None:
        """Send a request and hear its response to the end.

        A connection that the server closed while it was idle is replaced once, before anything was heard of the answer.

        Args:
            method: GET or POST.
            path: route, after the address's own path.
            listener: hears the response, in the event loop, as it comes.
            body: JSON.
            headers: besides the usual.

        Raises:
            HttpError: the response is broken or did not come to its end.
            OSError: no connection.
        """
        added = "".join(f"{name}: {value}\r\n" for name, value in (headers or {}).items())
        head = f"{method} {self._address.path}{path} HTTP/1.1\r\n{self._head}{added}content-length: {len(body)}\r\n\r\n"
        request = head.encode("latin-1", errors="replace") + body
        connection = await self._connection()
        try:
            try:
                await connection.exchange(request, listener)
            except HttpError:
                if connection.heard or not connection.used:
                    raise
                connection = await self._connect()
                await connection.exchange(request, listener)
        except BaseException:
            connection.close()
            raise
        connection.used = True
        if connection.free:
            self._free.append(connection)
        else:
            connection.close()

    def close(self) -> None:
        """Close the connections that are free; those in use belong to their exchanges."""
        while self._free:
            self._free.pop().close()

    async def _connection(self) -> _Connection:
        while self._free:
            connection = self._free.pop()
            if connection.free:
                return connection
        return await self._connect()

    async def _connect(self) -> _Connection:
        loop = asyncio.get_running_loop()
        host = self._address.host
        _, connection = await loop.create_connection(_Connection, host, self._address.port, ssl=self._tls)
        return connection


def _common(address: Address, headers: dict[str, str]) -> dict[str, str]:
    usual = {"host": address.authority, "user-agent": "batchpilot", "accept": "*/*"}
    # A compressed stream says nothing before its buffers are full.
    return usual | {"accept-encoding": "identity", "content-type": "application/json"} | headers
