"""Whom the gateway does not let in: pages from elsewhere, and changes of an upstream's tuner or of a recording.

The upstream sees the gateway as its client, and its own name as the host that was asked: it cannot tell who asks, so
that is judged here.
"""

from __future__ import annotations

import hmac
import posixpath
from collections.abc import Sequence
from dataclasses import dataclass
from urllib.parse import urlsplit

from batchpilot.serving.doors.origins import foreign
from batchpilot.serving.gateway.asgi import Scope, Send, answer_json, error_content
from batchpilot.serving.gateway.record_route import RECORD_PATH
from batchpilot.serving.gateway.settings import GatewaySettings
from batchpilot.serving.gateway.upstreams.canary_route import CANARY_PATH

TUNER_PATH = "/api/scheduler/tuner"
"""Where `batchpilot serve` is changed."""

_READING = ("GET", "HEAD", "OPTIONS")


@dataclass(frozen=True, slots=True)
class Refusal:
    """An answer instead of the upstream's.

    Attributes:
        status: 401 or 403.
        message: for people.
        code: short name of the reason.
    """

    status: int
    message: str
    code: str

    async def tell(self, send: Send) -> None:
        """Say it.

        Args:
            send: ASGI.
        """
        headers = [(b"www-authenticate", b"Bearer")] if self.status == 401 else []
        await answer_json(send, self.status, error_content(self.message, self.code, "permission_error"), headers)


def refused_at_the_door(scope: Scope, settings: GatewaySettings, upstreams: Sequence[str]) -> Refusal | None:
    """Why a request may not come in, None where it may.

    Args:
        scope: ASGI.
        settings: the gateway's token.
        upstreams: addresses that the request may go to.
    """
    why = foreign(scope["headers"], labels=True) if settings.token is None else None
    if why is not None:
        return Refusal(403, why, "foreign_request")
    paths = {posixpath.normpath(f"/{urlsplit(upstream).path}/{scope['path']}") for upstream in upstreams}
    own = scope["path"] in (RECORD_PATH, CANARY_PATH)
    if scope["method"] in _READING or not (own or any(TUNER_PATH in path.lower() for path in paths)):
        return None
    if settings.token is None:
        if own:
            return None
        message = (
            "the gateway passes no changes of the tuner on: ask the server itself, or start the gateway with its token "
            "(--token-file)"
        )
        return Refusal(403, message, "change_not_passed_on")
    given = dict(scope["headers"]).get(b"authorization", b"")
    if not given:
        return Refusal(401, "changes need the header 'Authorization: Bearer TOKEN'", "token_missing")
    kind, _, token = given.partition(b" ")
    if kind.lower() != b"bearer" or not hmac.compare_digest(token.strip(), settings.token.encode()):
        return Refusal(403, "the token is not the one that the gateway was started with", "token_wrong")
    return None
