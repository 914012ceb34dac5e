"""What the gateway's own routes have in common: a small JSON body, and the words for one that is not."""

from __future__ import annotations

import json
from collections.abc import Callable
from typing import Any

from batchpilot.serving.gateway.asgi import LateBodyError, Receive, Scope, Send, answer_json, body_pieces, error_content

MOST_BYTES = 4096
"""Of what is asked."""


class AskedError(Exception):
    """What was asked of a route cannot be done.

    Args:
        status: HTTP status.
        message: for people.
        code: short name of the reason.
    """

    def __init__(self, status: int, message: str, code: str) -> None:
        super().__init__(message)
        self.status, self.message, self.code = status, message, code

    async def tell(self, send: Send) -> None:
        """Say it.

        Args:
            send: ASGI.
        """
        kind = "server_error" if self.status >= 500 else "invalid_request_error"
        headers = [(b"allow", b"GET, POST")] if self.status == 405 else []
        await answer_json(send, self.status, error_content(self.message, self.code, kind), headers)


async def answer_own(
    path: str,
    hint: str,
    change: Callable[[dict[str, Any]], None],
    status: Callable[[], dict[str, Any]],
    body_s: float,
    scope: Scope,
    receive: Receive,
    send: Send,
) -> None:
    """Answer one request to a route whose POST changes something, and whose GET tells how it stands.

    Args:
        path: of the route.
        hint: what to send, for messages.
        change: does what a POST asks for, or raises AskedError.
        status: how it stands, as plain data.
        body_s: the body must have come within so long.
        scope: ASGI.
        receive: ASGI.
        send: ASGI.
    """
    try:
        if scope["method"] == "POST":
            change(await asked_json(hint, body_s, scope, receive))
        elif scope["method"] not in ("GET", "HEAD"):
            raise AskedError(405, f"{path} takes GET and POST", "method_not_allowed")
    except AskedError as error:
        await error.tell(send)
    else:
        await answer_json(send, 200, status())


async def asked_json(hint: str, body_s: float, scope: Scope, receive: Receive) -> dict[str, Any]:
    """The JSON object that a POST brings.

    Args:
        hint: what to send, for messages.
        body_s: the body must have come within so long.
        scope: ASGI.
        receive: ASGI.

    Raises:
        AskedError: it brings something else.
    """
    kind = dict(scope["headers"]).get(b"content-type", b"").partition(b";")[0].strip().lower()
    if kind != b"application/json":
        told = kind.decode("latin-1") or "of no type"
        raise AskedError(415, f"the body is {told}; {hint}", "unsupported_media_type")
    body = b""
    try:
        async for piece in body_pieces(receive, body_s):
            body += piece
            if len(body) > MOST_BYTES:
                raise AskedError(413, f"the body has more than {MOST_BYTES} bytes; {hint}", "request_too_large")
    except LateBodyError as late:
        raise AskedError(408, str(late), "body_timeout") from None
    try:
        asked = json.loads(body)
    except (ValueError, RecursionError):
        raise AskedError(400, f"the body is no JSON; {hint}", "invalid_json") from None
    if not isinstance(asked, dict):
        raise AskedError(400, f"the body asks for something else; {hint}", "invalid_request")
    return asked
