"""The engine's end of the wire: requests of the process that clients meet go to the engine, what it says goes back."""

from __future__ import annotations

import asyncio
import time
from dataclasses import replace
from typing import Any

from fastapi import FastAPI

from batchpilot.serving.server.front.engine import Said
from batchpilot.serving.server.front.wire import Wire
from batchpilot.serving.server.generation import Generation, Heard, Order, Outlet, Piece
from batchpilot.serving.server.incoming import Message
from batchpilot.serving.server.service import Service


class Behind:
    """Answers the process that clients meet. Used in one event loop only.

    Args:
        service: whose engine.
        app: answers what is no completion.
        wire: to that process.
    """

    def __init__(self, service: Service, app: FastAPI, wire: Wire) -> None:
        self._service, self._app, self._wire = service, app, wire
        self._generations: dict[int, Generation] = {}
        self._said: list[Said] = []
        self._tasks: set[asyncio.Task[None]] = set()

    def hear(self, message: tuple[Any, ...]) -> None:
        """A message that asks for something.

        Args:
            message: "submit", "cancel" or "ask", and what belongs to it.
        """
        match message:
            case ("submit", number, order):
                self._submit(number, order)
            case ("cancel", number, satisfied) if number in self._generations:
                self._service.engine.cancel(self._generations[number], satisfied=satisfied)
            case ("ask", number, scope, body):
                task = asyncio.create_task(self._answer(number, scope, body))
                self._tasks.add(task)
                task.add_done_callback(self._tasks.discard)

    def leave(self) -> None:
        """The process that clients meet has gone: nobody wants the rest of anything."""
        for generation in self._generations.values():
            self._service.engine.cancel(generation)

    def _tell(self, heard: Heard) -> None:
        """Say a piece with the others of its step."""
        number, piece = heard
        if piece.finished is not None:
            del self._generations[number]
        if not self._said:
            asyncio.get_running_loop().call_soon(self._flush)
        # Nearly every piece is a token and nothing else; so little is pickled in a fifth of the time.
        plain = piece.finished is None and piece.logprobs is None
        self._said.append((number, piece.token) if plain else (number, *piece))

    def _flush(self) -> None:
        said, self._said = self._said, []
        self._wire.say("pieces", said)

    def _submit(self, number: int, order: Order) -> None:
        # Both processes read one monotonic clock; the engine's may be another.
        service = self._service
        arrived_s = service.clock() - max(time.perf_counter() - order.arrived_s, 0.0)
        generation = Generation(replace(order, arrived_s=arrived_s), Outlet(self._tell, number))
        self._generations[number] = generation
        if service.draining:
            self._tell((number, Piece(None, "shutting_down")))
        else:
            service.engine.submit(generation)

    async def _answer(self, number: int, scope: Message, body: bytes) -> None:
        """By the application, in one piece."""
        status, headers, parts = 500, [], []
        asked = [{"type": "http.request", "body": body, "more_body": False}]

        async def receive() -> Message:
            if not asked:
                await asyncio.Event().wait()
            return asked.pop()

        async def send(message: Message) -> None:
            nonlocal status, headers
            if message["type"] == "http.response.start":
                status, headers = message["status"], list(message["headers"])
            else:
                parts.append(message.get("body", b""))

        try:
            await self._app(scope, receive, send)
        finally:
            self._wire.say("answer", number, status, headers, b"".join(parts))
