"""A service behind a process for HTTP, from its start to its end."""

from __future__ import annotations

import asyncio
import logging
import os
import signal
import socket
import subprocess
import sys
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from types import FrameType
from typing import Any

from fastapi import FastAPI

from batchpilot.serving.server.front import door
from batchpilot.serving.server.front.behind import Behind
from batchpilot.serving.server.front.wire import Opening, Wire
from batchpilot.serving.server.service import Service

log = logging.getLogger("batchpilot.server")

_SIGNALS = (signal.SIGINT, signal.SIGTERM)


class FrontedServer:
    """Runs an engine here and the process that clients meet. It has uvicorn's `run`, `started` and `should_exit`.

    Args:
        service: what answers.
        app: likewise, everything but completions.
        opening: what that process is told.
        on_drain: hears once that no new request is to be taken.
        on_start: hears the port once that process listens.

    Attributes:
        started: whether it listens.
        port: where.
    """

    def __init__(
        self,
        service: Service,
        app: FastAPI,
        opening: Opening,
        on_drain: Callable[[], None],
        on_start: Callable[[int], None] | None = None,
    ) -> None:
        self.started = False
        self.port = opening.port
        self._app, self._opening, self._on_drain, self._on_start = app, opening, on_drain, on_start
        self._wire = Wire(self._hear, self._lose)
        self._behind = Behind(service, app, self._wire)
        self._loop: asyncio.AbstractEventLoop | None = None
        self._left: asyncio.Event | None = None
        self._draining = self._ending = False

    def run(self) -> None:
        """Serve until a signal comes or `should_exit` is set, and the last answer is out.

        Raises:
            SystemExit: the other process could not begin, or ended by itself.
        """
        with self._hearing_signals():
            asyncio.run(self._serve())

    @property
    def should_exit(self) -> bool:
        """Whether it is about to end; may be set from any thread."""
        return self._ending

    @should_exit.setter
    def should_exit(self, ending: bool) -> None:
        if ending and self._loop is not None and not self._loop.is_closed():
            self._loop.call_soon_threadsafe(self._end)

    def drain(self) -> None:
        """Take no new request, from any thread; a second call does nothing."""
        if not self._draining:
            self._draining = True
            self._on_drain()
            if self._loop is not None:
                self._loop.call_soon_threadsafe(self._wire.say, "drain")

    async def _serve(self) -> None:
        self._loop, self._left = asyncio.get_running_loop(), asyncio.Event()
        here, there = socket.socketpair()
        with there:
            process = _started(there)
        try:
            await self._loop.create_connection(lambda: self._wire, sock=here)
            async with self._app.router.lifespan_context(self._app):
                self._wire.say("open", self._opening)
                await self._left.wait()
                self._behind.leave()
                code = await asyncio.to_thread(process.wait)
        finally:
            began, self.started = self.started, False
            process.kill()
            process.wait()
        if not self._ending:
            if began:
                log.error("the process for HTTP has ended by itself, with status %d", code)
            raise SystemExit(max(code, 1))

    def _hear(self, message: tuple[Any, ...]) -> None:
        if message[0] == "started":
            self.port, self.started = message[1], True
            if self._on_start is not None:
                self._on_start(self.port)
        else:
            self._behind.hear(message)

    def _lose(self) -> None:
        if self._left is not None:
            self._left.set()

    def _end(self, *, at_once: bool = False) -> None:
        self._ending = True
        self.drain()
        self._wire.say("end", at_once)

    @contextmanager
    def _hearing_signals(self) -> Iterator[None]:
        """End by a signal, at once by a second Ctrl-C, and let it have its usual effect after the last answer."""
        if threading.current_thread() is not threading.main_thread():
            yield
            return
        heard: list[int] = []

        def hear(number: int, _: FrameType | None) -> None:
            heard.append(number)
            if self._loop is not None:
                again = number == signal.SIGINT and len(heard) > 1
                self._loop.call_soon_threadsafe(lambda: self._end(at_once=again))

        before = {number: signal.signal(number, hear) for number in _SIGNALS}
        try:
            yield
        finally:
            for which, handler in before.items():
                signal.signal(which, handler)
        for number in heard[:1]:
            signal.raise_signal(number)


def _started(end: socket.socket) -> subprocess.Popen[bytes]:
    """The process that clients meet, with this end of the wire and the paths of this one."""
    paths = os.pathsep.join(path for path in sys.path if path)
    return subprocess.Popen(
        [sys.executable, "-m", door.__name__, str(end.fileno())],
        pass_fds=[end.fileno()],
        env={**os.environ, "PYTHONPATH": paths},
    )
