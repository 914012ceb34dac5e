"""A completion request's body: read whole, within its bounds."""

from __future__ import annotations

from batchpilot.serving.doors.bodies import Share
from batchpilot.serving.gateway.asgi import (
    LateBodyError,
    Receive,
    Scope,
    Send,
    answer_json,
    body_pieces,
    error_content,
)
from batchpilot.serving.gateway.settings import GatewaySettings
from batchpilot.serving.gateway.telling import body_length, tell_late

MOST_VALUES = 2**21
"""Of JSON in a completion request, counted by commas, those in texts too: twice as many as the longest contexts have
tokens. Parsing tens of millions, or what they would take in memory, nobody could wait for."""


async def whole_body(
    settings: GatewaySettings, share: Share, scope: Scope, receive: Receive, send: Send
) -> bytes | None:
    """The body, None when it was too large or too late and that has been told.

    Args:
        settings: bounds.
        share: of the memory for bodies.
        scope: ASGI.
        receive: ASGI.
        send: ASGI.
    """
    most = settings.largest_body_mb * 1e6
    length = body_length(scope) or 0
    pieces: list[bytes] = []
    values = 0
    if length <= most:
        length = 0
        try:
            async for piece in body_pieces(receive, settings.body_s):
                share.grow(len(piece))
                pieces.append(piece)
                length += len(piece)
                values += piece.count(b",")
                if length > most or values > MOST_VALUES:
                    break
            else:
                return b"".join(pieces)
        except LateBodyError as late:
            await tell_late(send, late)
            return None
    message = f"the request has at least {length} bytes; the gateway takes {most:.0f} of a completion request"
    if values > MOST_VALUES:
        message = f"the request has more than {MOST_VALUES} values or commas; the gateway reads no more"
    await answer_json(send, 413, error_content(message, "request_too_large", "invalid_request_error"))
    return None
