"""Who may change the tuner: whoever has the token; without one whoever sits at this machine, and no web page there."""

from __future__ import annotations

import hmac
import ipaddress
from typing import Annotated
from urllib.parse import urlsplit

from fastapi import Depends, Request
from fastapi.security import HTTPAuthorizationCredentials, HTTPBearer

from batchpilot.serving.server.errors import ApiError

_bearer = HTTPBearer(auto_error=False, description="Needed where the server was started with a token.")


def is_loopback(host: str) -> bool:
    """Whether only this machine can reach a server that binds to a host.

    Args:
        host: a name or address.
    """
    if host == "localhost":
        return True
    try:
        return ipaddress.ip_address(host.strip("[]")).is_loopback
    except ValueError:
        return False


def check_binding(host: str, token: str | None) -> None:
    """Refuse to offer the tuner to a network without a token.

    Args:
        host: to bind to.
        token: as configured.

    Raises:
        ValueError: no token, and the host is more than this machine; or the token is short.
    """
    if token is None and not is_loopback(host):
        raise ValueError(
            f"host {host!r} can be reached by others, who could change the tuner; set a token (--token-file, or "
            "BATCHPILOT_TOKEN), or bind to 127.0.0.1"
        )
    if token is not None and len(token) < 16:
        raise ValueError(f"the token has {len(token)} characters; it must have at least 16")


class ChangesAllowed:
    """A dependency of every route that changes something.

    Args:
        token: as configured, None where the server is bound to loopback.
    """

    def __init__(self, token: str | None) -> None:
        self._token = token

    async def __call__(
        self, request: Request, given: Annotated[HTTPAuthorizationCredentials | None, Depends(_bearer)]
    ) -> None:
        """Let the request through.

        Raises:
            ApiError: the token is missing or wrong, or a page of another origin sent it.
        """
        if self._token is None:
            self._refuse_foreign_pages(request)
        elif given is None:
            headers = {"WWW-Authenticate": "Bearer"}
            raise ApiError(401, "changes need the header 'Authorization: Bearer TOKEN'", headers=headers)
        elif not hmac.compare_digest(given.credentials.encode(), self._token.encode()):
            raise ApiError(403, "the token is not the one that the server was started with")

    @staticmethod
    def _refuse_foreign_pages(request: Request) -> None:
        """A browser on this machine reaches loopback for any page it shows; the page gives itself away."""
        host = request.headers.get("host", "")
        origin = request.headers.get("origin")
        name = urlsplit(f"//{host}").hostname or ""
        if not is_loopback(name):
            raise ApiError(403, f"the host {host!r} is not this machine; a server without a token serves only loopback")
        if origin is not None and urlsplit(origin).netloc != host:
            raise ApiError(403, f"a page of {origin} may not change the tuner of this server")
