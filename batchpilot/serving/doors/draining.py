"""The end of a server: after SIGTERM whoever comes is told no, at an open door, until the last answer is out."""

from __future__ import annotations

import asyncio
import socket
from collections.abc import Callable
from types import FrameType

import uvicorn

_LAST_S = 5
"""Connections whose answers are out may take so long to close."""


class DrainingServer(uvicorn.Server):
    """uvicorn, which by itself stops listening at once and so refuses whoever comes without a word.

    Args:
        config: uvicorn's; its `timeout_graceful_shutdown` bounds the wait for the last answer.
        on_drain: hears once that no new request is to be taken.
        on_start: hears the port once it listens.
    """

    def __init__(
        self, config: uvicorn.Config, on_drain: Callable[[], None], on_start: Callable[[int], None] | None = None
    ) -> None:
        super().__init__(config)
        self._on_drain, self._on_start = on_drain, on_start
        self._draining = False

    @property
    def port(self) -> int:
        """Where it listens, once it has started."""
        return int(self.servers[0].sockets[0].getsockname()[1])

    async def startup(self, sockets: list[socket.socket] | None = None) -> None:
        """Begin to listen, and say where.

        Args:
            sockets: uvicorn's.
        """
        await super().startup(sockets)
        if self.started and self._on_start is not None:
            self._on_start(self.port)

    def handle_exit(self, sig: int, frame: FrameType | None) -> None:
        """Take no new request, and end after the last answer; at once when Ctrl-C is pressed again.

        Args:
            sig: the signal.
            frame: where it came.
        """
        self.drain()
        super().handle_exit(sig, frame)

    def drain(self) -> None:
        """As `handle_exit`, without its end; a second call does nothing."""
        if not self._draining:
            self._draining = True
            self._on_drain()

    async def shutdown(self, sockets: list[socket.socket] | None = None) -> None:
        """Wait for the requests that are being answered, and only then close the door.

        Args:
            sockets: uvicorn's.
        """
        self.drain()
        answering = set(self.server_state.tasks)
        most_s = self.config.timeout_graceful_shutdown
        end_s = None if most_s is None else asyncio.get_running_loop().time() + most_s
        while answering and not self.force_exit and (end_s is None or asyncio.get_running_loop().time() < end_s):
            _, answering = await asyncio.wait(answering, timeout=0.1)
        if most_s is not None:
            self.config.timeout_graceful_shutdown = min(most_s, _LAST_S)
        await super().shutdown(sockets)
