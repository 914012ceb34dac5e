"""What the gateway itself answers instead of an upstream, and what it reads in a request's head to do so."""

from __future__ import annotations

import math

from batchpilot.core.files import json_text
from batchpilot.serving.doors.bodies import RETRY_S, BodiesFullError
from batchpilot.serving.gateway.asgi import LateBodyError, Scope, Send, answer_json, error_content
from batchpilot.serving.gateway.connection import UpstreamError
from batchpilot.serving.gateway.waiting import RefusedError

RETRY_UPSTREAM_S = 2


def target(scope: Scope) -> bytes:
    """Path and query as the client wrote them.

    Args:
        scope: ASGI.
    """
    path: bytes = scope.get("raw_path") or scope["path"].encode()
    query: bytes = scope.get("query_string", b"")
    return path + b"?" + query if query else path


def body_length(scope: Scope) -> int | None:
    """Bytes of a request's body; None where the headers do not say.

    Args:
        scope: ASGI.
    """
    headers = dict(scope["headers"])
    if b"transfer-encoding" in headers:
        return None
    length: bytes = headers.get(b"content-length", b"0")
    return int(length) if length.isdigit() else None


async def tell_late(send: Send, late: LateBodyError) -> None:
    """408, and why; the connection is closed, as the rest of the body would be taken for a request.

    Args:
        send: ASGI.
        late: what has come.
    """
    content = error_content(str(late), "body_timeout", "timeout_error")
    await answer_json(send, 408, content, [(b"connection", b"close")])


async def tell_full(send: Send, full: BodiesFullError) -> None:
    """503, when to come again, and why.

    Args:
        send: ASGI.
        full: why.
    """
    await answer_json(send, 503, error_content(str(full), "bodies_full"), [(b"retry-after", str(RETRY_S).encode())])


async def tell_refusal(send: Send, refused: RefusedError) -> None:
    """503, when to come again, and why.

    Args:
        send: ASGI.
        refused: why.
    """
    message = f"The server is at its limit: {refused.reason}. Retry in {refused.retry_after_s} s."
    headers = [(b"retry-after", str(refused.retry_after_s).encode())]
    await answer_json(send, 503, error_content(message, refused.code), headers)


async def tell_failure(send: Send, failure: UpstreamError) -> None:
    """502, 503 or 504, and why.

    Args:
        send: ASGI.
        failure: what happened.
    """
    headers = [(b"retry-after", str(RETRY_UPSTREAM_S).encode())] if failure.status == 503 else []
    await answer_json(send, failure.status, error_content(failure.reason, failure.code), headers)


async def tell_rate(send: Send, wait_s: float) -> None:
    """429, and when to come again.

    Args:
        send: ASGI.
        wait_s: until the key's bucket holds enough.
    """
    retry_s = max(math.ceil(wait_s), 1)
    message = f"The rate limit of this API key is reached. Retry in {retry_s} s."
    headers = [(b"retry-after", str(retry_s).encode())]
    await answer_json(send, 429, error_content(message, "rate_limited", "rate_limit_error"), headers)


def error_event(failure: UpstreamError, between_events: bool) -> bytes:
    """The failure as the last event of a stream that broke off.

    Args:
        failure: what happened.
        between_events: whether the stream stood between two events.
    """
    event = b"data: " + json_text(error_content(failure.reason, failure.code)).encode() + b"\n\n"
    return event if between_events else b"\n\n" + event
