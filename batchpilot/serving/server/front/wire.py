"""One end of the socket between the engine's process and the one that it starts for HTTP: messages are pickled tuples.

It is a pair of connected sockets that only these two processes hold; nothing of a network is ever unpickled.
"""

from __future__ import annotations

import asyncio
import pickle
from collections.abc import Callable
from typing import Any, NamedTuple, cast

from batchpilot.serving.server.config import ServerConfig
from batchpilot.serving.server.text import Text

_LENGTH_BYTES = 8


class Opening(NamedTuple):
    """The first message to the process that clients meet.

    Attributes:
        config: how the server answers.
        text: its tokenizer.
        longest: most tokens of a request.
        started: seconds since the epoch.
        host: to bind to.
        port: likewise.
    """

    config: ServerConfig
    text: Text
    longest: int
    started: int
    host: str
    port: int


class Wire(asyncio.Protocol):
    """Used in one event loop only.

    Args:
        hear: gets each message.
        lost: called once when the other process has gone.
    """

    def __init__(self, hear: Callable[[tuple[Any, ...]], None], lost: Callable[[], None]) -> None:
        self._hear, self._lost = hear, lost
        self._transport: asyncio.Transport | None = None
        self._unread = bytearray()

    def say(self, *message: object) -> None:
        """Send a message; nothing once the other process has gone.

        Args:
            message: what it is, then what belongs to it.
        """
        if self._transport is not None and not self._transport.is_closing():
            data = pickle.dumps(message, pickle.HIGHEST_PROTOCOL)
            self._transport.write(len(data).to_bytes(_LENGTH_BYTES, "little") + data)

    def close(self) -> None:
        """Say no more."""
        if self._transport is not None:
            self._transport.close()

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        """It is open."""
        self._transport = cast(asyncio.Transport, transport)

    def connection_lost(self, error: Exception | None) -> None:
        """The other process has gone, or this end was closed."""
        self._transport = None
        self._lost()

    def data_received(self, data: bytes) -> None:
        """Part of a message, or several."""
        unread = self._unread
        unread += data
        read = 0
        while len(unread) - read >= _LENGTH_BYTES:
            end = read + _LENGTH_BYTES + int.from_bytes(unread[read : read + _LENGTH_BYTES], "little")
            if len(unread) < end:
                break
            message = pickle.loads(memoryview(unread)[read + _LENGTH_BYTES : end])
            read = end
            self._hear(message)
        del unread[:read]
