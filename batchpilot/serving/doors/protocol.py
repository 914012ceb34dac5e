"""HTTP/1.1 connections with bounds that uvicorn leaves open: size and time of a head, and how many there are.

Two of its habits are mended beside: of pipelined requests it tells only the last that the client has left, and it drops
the answer of a client that has said all it wanted to say. Sizes in bytes, times in s.
"""

from __future__ import annotations

import asyncio
import socket
from functools import partial
from typing import Any, cast

from uvicorn.protocols.http.httptools_impl import HttpToolsProtocol

from batchpilot.serving.load.files import allow_many_files

MOST_HEAD_BYTES = 2**16
"""Of a request line with its headers, of trailers, and of what stands between two chunks. Of the latter two, what came
in one read with a part of the body is not counted."""

MOST_CONNECTIONS = 4096
"""At most so many, however many files a process may open: each may hold a body."""

_GONE_S = 0.25
"""So long an answer may take to begin after its client has stopped sending, before it is asked whether it is there."""


def door_settings(seconds: float) -> dict[str, Any]:
    """What uvicorn is told for its connections to have bounds.

    Args:
        seconds: a head must have come within so long, and the rest of a body whose request is answered already.
    """
    return {
        "http": partial(BoundedProtocol, seconds=seconds),
        "limit_concurrency": most_connections(),
        "ws": "none",
    }


def most_connections() -> int:
    """Connections that this process may hold open, with one of its own to an upstream beside each.

    The process's bound on open files is raised to the highest that it may set.
    """
    allow_many_files()
    try:
        import resource
    except ImportError:
        return MOST_CONNECTIONS
    files, _ = resource.getrlimit(resource.RLIMIT_NOFILE)
    return MOST_CONNECTIONS if files == resource.RLIM_INFINITY else max(min(MOST_CONNECTIONS, files // 2 - 64), 16)


class BoundedProtocol(HttpToolsProtocol):
    """One connection.

    Args:
        arguments: uvicorn's.
        seconds: as `door_settings` takes it.
        options: uvicorn's.
    """

    def __init__(self, *arguments: Any, seconds: float, **options: Any) -> None:
        super().__init__(*arguments, **options)
        self._seconds = seconds
        self._deadline: asyncio.TimerHandle | None = None
        self._unread = self._head = 0
        self._cycles: list[Any] = []
        self._ended = self._asked = False

    @property
    def _answering(self) -> bool:
        self._cycles = [cycle for cycle in self._cycles if not cycle.response_complete]
        return bool(self._cycles)

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        """It is open; uvicorn answers requests on the last that there may be with 503, more are closed."""
        super().connection_made(transport)
        if len(self.connections) > self.limit_concurrency:
            transport.close()
        self._wait()

    def connection_lost(self, error: Exception | None) -> None:
        """It is gone: every request that it carried hears so."""
        self._stop_waiting()
        self.pipeline.clear()
        for cycle in self._cycles:
            cycle.disconnected = not cycle.response_complete
            cycle.message_event.set()
        super().connection_lost(error)

    def data_received(self, data: bytes) -> None:
        """Part of a request."""
        self._unread += len(data)
        super().data_received(data)
        if self._unread > MOST_HEAD_BYTES and not self.transport.is_closing():
            self.send_400_response("")
        if self._deadline is None and not self._answering:
            self._wait()

    def eof_received(self) -> bool:
        """The client says no more; whether the connection is kept for the answers that it waits for."""
        self._ended = self._answering and not self.cycle.more_body
        if self._ended:
            self.loop.call_later(_GONE_S, self._ask)
        return self._ended

    def send_400_response(self, said: str) -> None:
        """Refuse what cannot be read on; without a word where it would stand in or before another request's answer."""
        if self._answering and (len(self._cycles) > 1 or self._cycles[0].response_started):
            self.transport.abort()
        elif max(self._unread, self._head) > MOST_HEAD_BYTES:
            super().send_400_response(f"The head of a request may have {MOST_HEAD_BYTES} bytes.")
        else:
            super().send_400_response(said)

    def on_header(self, name: bytes, value: bytes) -> None:
        """A header or trailer."""
        self._head += len(name) + len(value)
        if self._head > MOST_HEAD_BYTES:
            raise ValueError("head too large")
        super().on_header(name, value)

    def on_message_begin(self) -> None:
        """A request begins."""
        self._head = 0
        super().on_message_begin()

    def on_headers_complete(self) -> None:
        """A request's head has come."""
        self._unread = 0
        self._stop_waiting()
        super().on_headers_complete()
        self._cycles.append(self.cycle)

    def on_body(self, body: bytes) -> None:
        """Part of a body."""
        self._unread = 0
        super().on_body(body)

    def on_message_complete(self) -> None:
        """A request has come."""
        self._unread = 0
        super().on_message_complete()

    def on_response_complete(self) -> None:
        """A request is answered."""
        super().on_response_complete()
        if self._ended and not self._answering:
            self.transport.close()
        elif self.cycle.more_body and self._deadline is None:
            self._wait()

    def _wait(self) -> None:
        self._deadline = self.loop.call_later(self._seconds, self._give_up)

    def _stop_waiting(self) -> None:
        if self._deadline is not None:
            self._deadline.cancel()
            self._deadline = None

    def _give_up(self) -> None:
        self._deadline = None
        if not self._answering:
            self.transport.close()

    def _ask(self) -> None:
        """Whether a client that has stopped sending still listens: what is written tells, the answer or an interim."""
        if self.transport.is_closing() or not self._answering:
            return
        began = self._cycles[0].response_started
        if not began and self._cycles[0].scope["http_version"] == "1.0":
            # It would take an interim answer for the answer.
            self.transport.abort()
            return
        connection = cast(socket.socket, self.transport.get_extra_info("socket"))
        if connection.getsockopt(socket.SOL_SOCKET, socket.SO_ERROR):
            self.transport.abort()
            return
        if not (began or self._asked):
            self._asked = True
            self.transport.write(b"HTTP/1.1 100 Continue\r\n\r\n")
        self.loop.call_later(_GONE_S, self._ask)
