"""Who may change the tuner: whoever has the token; without one whoever may ask at all."""

from __future__ import annotations

import hmac
from typing import Annotated

from fastapi import Depends
from fastapi.responses import JSONResponse
from fastapi.security import HTTPAuthorizationCredentials, HTTPBearer

from batchpilot.serving.doors.origins import check_binding, foreign, is_loopback
from batchpilot.serving.server.errors import ApiError
from batchpilot.serving.server.incoming import Application, Message, Receive, Send

__all__ = ["ChangesAllowed", "LocalOnly", "check_binding", "is_loopback"]

_bearer = HTTPBearer(auto_error=False, description="Needed where the server was started with a token.")


class LocalOnly:
    """ASGI around an application without a token: only this machine and the application's own pages are answered.

    Args:
        app: the application.
    """

    def __init__(self, app: Application) -> None:
        self._app = app

    async def __call__(self, scope: Message, receive: Receive, send: Send) -> None:
        """Serve one request.

        Args:
            scope: ASGI.
            receive: likewise.
            send: likewise.
        """
        why = foreign(scope["headers"]) if scope["type"] == "http" else None
        if why is None:
            await self._app(scope, receive, send)
        else:
            refusal = ApiError(403, why, code="foreign_request")
            await JSONResponse(refusal.body, refusal.status)(scope, receive, send)


class ChangesAllowed:
    """A dependency of every route that changes something.

    Args:
        token: as configured, None where `LocalOnly` stands before all of them.
    """

    def __init__(self, token: str | None) -> None:
        self._token = token

    async def __call__(self, given: Annotated[HTTPAuthorizationCredentials | None, Depends(_bearer)]) -> None:
        """Let the request through.

        Raises:
            ApiError: the token is missing or wrong.
        """
        if self._token is None:
            return
        if given is None:
            headers = {"WWW-Authenticate": "Bearer"}
            raise ApiError(401, "changes need the header 'Authorization: Bearer TOKEN'", headers=headers)
        if not hmac.compare_digest(given.credentials.encode(), self._token.encode()):
            raise ApiError(403, "the token is not the one that the server was started with")
