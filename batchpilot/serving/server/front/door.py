"""The process that clients meet: `python -m batchpilot.serving.server.front.door FD`, started by the engine's.

It answers completions, passes every other request on, and goes when the engine's process says so or has gone. Signals
are the engine's process's to hear.
"""

from __future__ import annotations

import asyncio
import itertools
import logging
import signal
import socket
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

from fastapi import FastAPI
from starlette.requests import Request

from batchpilot.serving.doors.draining import DrainingServer
from batchpilot.serving.interpreter import keep_what_is_loaded
from batchpilot.serving.server import errors
from batchpilot.serving.server.doors import stand_before
from batchpilot.serving.server.front.engine import Front
from batchpilot.serving.server.front.wire import Opening, Wire
from batchpilot.serving.server.incoming import Message, Receive, Send
from batchpilot.serving.server.listening import listening
from batchpilot.serving.server.openai_routes import openai_routes

log = logging.getLogger("batchpilot.server")

PASSED_ON = (
    "type",
    "http_version",
    "method",
    "scheme",
    "path",
    "raw_path",
    "query_string",
    "headers",
    "client",
    "server",
)
"""What the engine's process is told of a request that it answers."""


class PassedOn:
    """ASGI of whatever is not answered here: the engine's process answers, in one piece.

    Args:
        wire: to it.
    """

    def __init__(self, wire: Wire) -> None:
        self._wire = wire
        self._numbers = itertools.count()
        self._asked: dict[int, asyncio.Future[tuple[int, list[tuple[bytes, bytes]], bytes]]] = {}
        self._gone = False

    async def __call__(self, scope: Message, receive: Receive, send: Send) -> None:
        """Serve one request.

        Args:
            scope: ASGI.
            receive: likewise.
            send: likewise.
        """
        body = await Request(scope, receive).body()
        if self._gone:
            raise _gone()
        number = next(self._numbers)
        answer = self._asked[number] = asyncio.get_running_loop().create_future()
        self._wire.say("ask", number, {name: scope[name] for name in PASSED_ON if name in scope}, body)
        try:
            status, headers, content = await answer
        finally:
            del self._asked[number]
        await send({"type": "http.response.start", "status": status, "headers": headers})
        await send({"type": "http.response.body", "body": content})

    def hear(self, number: int, *answer: Any) -> None:
        """The engine's process has answered.

        Args:
            number: which request.
            answer: status, headers and body.
        """
        if number in self._asked and not self._asked[number].done():
            self._asked[number].set_result(answer)

    def lose(self) -> None:
        """The engine's process has gone."""
        self._gone = True
        for answer in self._asked.values():
            if not answer.done():
                answer.set_exception(_gone())


def _gone() -> errors.ApiError:
    return errors.ApiError(500, "the engine's process has ended", code="engine_failure")


class _Obedient(DrainingServer):
    """Ends when it is told to, not by signals, which the engine's process hears."""

    @contextmanager
    def capture_signals(self) -> Iterator[None]:
        yield


class Door:
    """Everything in this process.

    Args:
        end: of the pair of sockets.
    """

    def __init__(self, end: socket.socket) -> None:
        self._end = end
        self._opening: asyncio.Future[Opening] = asyncio.Future()
        self._wire = Wire(self._hear, self._lose)
        self._passed_on = PassedOn(self._wire)
        self._front: Front | None = None
        self._server: DrainingServer | None = None
        self._ending = False

    async def serve(self) -> None:
        """Until it is told to end."""
        await asyncio.get_running_loop().create_connection(lambda: self._wire, sock=self._end)
        opening = await self._opening
        config = opening.config
        front = self._front = Front.of(opening, self._wire)
        app = FastAPI(docs_url=None, redoc_url=None, openapi_url=None)
        errors.install(app)
        app.include_router(openai_routes(front))
        app.mount("/", self._passed_on)
        stand_before(app, config, opening.longest)
        settings = listening(app, config, opening.host, opening.port)
        self._server = _Obedient(settings, self._drain, lambda port: self._wire.say("started", port))
        self._server.should_exit = self._ending
        await self._server.serve()
        self._wire.close()

    def _drain(self) -> None:
        if self._front is not None:
            self._front.draining = True

    def _hear(self, message: tuple[Any, ...]) -> None:
        match message:
            case ("pieces", said) if self._front is not None:
                self._front.engine.hear(said)
            case ("answer", *answer):
                self._passed_on.hear(*answer)
            case ("open", opening):
                self._opening.set_result(opening)
            case ("drain",) if self._server is not None:
                self._server.drain()
            case ("end", at_once):
                self._exit(force=at_once)

    def _exit(self, *, force: bool = False) -> None:
        self._ending = True
        if self._server is not None:
            self._server.should_exit = True
            self._server.force_exit = force

    def _lose(self) -> None:
        if self._front is not None:
            self._front.engine.lose()
        self._passed_on.lose()
        if not self._opening.done():
            self._opening.cancel()
        self._exit()


async def _serve(end: socket.socket) -> None:
    await Door(end).serve()


def main() -> None:
    """Serve over the socket whose number is the first argument."""
    for number in (signal.SIGINT, signal.SIGTERM):
        signal.signal(number, signal.SIG_IGN)
    end = socket.socket(fileno=int(sys.argv[1]))
    keep_what_is_loaded()
    try:
        import uvloop
    except ImportError:
        asyncio.run(_serve(end))
    else:
        uvloop.run(_serve(end))


if __name__ == "__main__":
    main()
