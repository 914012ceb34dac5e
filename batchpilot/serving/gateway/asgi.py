"""The little of ASGI that the gateway needs: bodies, answers of its own, and a client that goes away."""

from __future__ import annotations

import asyncio
import math
from collections.abc import AsyncIterator, Awaitable, Callable, Coroutine, MutableMapping
from typing import Any

from batchpilot.core.files import json_text

Scope = MutableMapping[str, Any]
Message = MutableMapping[str, Any]
Receive = Callable[[], Awaitable[Message]]
Send = Callable[[Message], Awaitable[None]]


class ClientGoneError(Exception):
    """The client closed its connection before its answer was complete."""


class LateBodyError(Exception):
    """A request's body did not come in its time."""


async def body_pieces(receive: Receive, seconds: float, bytes_per_s: float = math.inf) -> AsyncIterator[bytes]:
    """A request's body as it comes.

    Args:
        receive: ASGI.
        seconds: in which it must have come.
        bytes_per_s: it may take longer by what it has brought, at this rate.

    Raises:
        ClientGoneError: the client left before it was complete.
        LateBodyError: its time was up before.
    """
    more, size = True, 0
    began_s = asyncio.get_running_loop().time()
    while more:
        try:
            async with asyncio.timeout_at(began_s + seconds + size / bytes_per_s):
                message = await receive()
        except TimeoutError:
            raise LateBodyError(f"{size} bytes of the body came in time, and it is not complete") from None
        if message["type"] == "http.disconnect":
            raise ClientGoneError
        more = message.get("more_body", False)
        size += len(message.get("body", b""))
        if message.get("body"):
            yield message["body"]


async def unless_client_leaves(receive: Receive, work: Coroutine[Any, Any, None]) -> None:
    """Do the work of answering, or cancel it when the client leaves.

    Args:
        receive: ASGI; the request's body has been read.
        work: answers.

    Raises:
        ClientGoneError: the client left first; the work has been cancelled and has cleaned up.
    """
    answering = asyncio.ensure_future(work)
    leaving = asyncio.ensure_future(_disconnect(receive))
    try:
        await asyncio.wait({answering, leaving}, return_when=asyncio.FIRST_COMPLETED)
        if not answering.done():
            raise ClientGoneError
        answering.result()
    finally:
        for task in (answering, leaving):
            task.cancel()
        await asyncio.gather(answering, leaving, return_exceptions=True)


async def answer_json(
    send: Send, status: int, content: dict[str, Any], headers: list[tuple[bytes, bytes]] | None = None
) -> None:
    """A whole answer.

    Args:
        send: ASGI.
        status: HTTP status.
        content: what is said.
        headers: besides type and length.
    """
    await answer(send, status, json_text(content).encode(), b"application/json", headers)


async def answer(
    send: Send, status: int, body: bytes, kind: bytes, headers: list[tuple[bytes, bytes]] | None = None
) -> None:
    """A whole answer of any type.

    Args:
        send: ASGI.
        status: HTTP status.
        body: its bytes.
        kind: its content type.
        headers: besides type and length.
    """
    told = [(b"content-type", kind), (b"content-length", str(len(body)).encode()), *(headers or [])]
    await send({"type": "http.response.start", "status": status, "headers": told})
    await send({"type": "http.response.body", "body": body})


def error_content(message: str, code: str, kind: str = "server_error") -> dict[str, Any]:
    """An error as OpenAI's API shapes it.

    Args:
        message: for people.
        code: short name of the reason.
        kind: `server_error` or `invalid_request_error`.
    """
    return {"error": {"message": message, "type": kind, "param": None, "code": code}}


async def _disconnect(receive: Receive) -> None:
    while (await receive())["type"] != "http.disconnect":
        pass
