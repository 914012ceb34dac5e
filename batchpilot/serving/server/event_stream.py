"""Server-sent events as an answer, written as they come."""

from __future__ import annotations

from collections.abc import AsyncGenerator

from fastapi.responses import Response

from batchpilot.serving.server.incoming import Message, Receive, Send

_UNBUFFERED = {"Cache-Control": "no-cache", "X-Accel-Buffering": "no"}
"""Proxies on the way pass every chunk on at once."""


class EventStream(Response):
    """Events until there are no more. Unlike the framework's stream it has no task that waits for the client to leave.

    Args:
        events: text of one event or several; ends soon once its client has left.
    """

    media_type = "text/event-stream"

    def __init__(self, events: AsyncGenerator[str, None]) -> None:
        super().__init__(headers=_UNBUFFERED)
        del self.headers["content-length"]
        self._events = events

    async def __call__(self, scope: Message, receive: Receive, send: Send) -> None:
        """Serve it.

        Args:
            scope: ASGI.
            receive: likewise.
            send: likewise.
        """
        try:
            await send({"type": "http.response.start", "status": self.status_code, "headers": self.raw_headers})
            async for event in self._events:
                await send({"type": "http.response.body", "body": event.encode(), "more_body": True})
            await send({"type": "http.response.body", "body": b"", "more_body": False})
        finally:
            await self._events.aclose()
