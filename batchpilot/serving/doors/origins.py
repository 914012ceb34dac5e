"""Who may ask a server that has no token: whoever sits at this machine, and no web page from elsewhere."""

from __future__ import annotations

import ipaddress
from collections.abc import Iterable
from urllib.parse import urlsplit

LEAST_TOKEN_CHARACTERS = 16


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
    if token is not None and len(token) < LEAST_TOKEN_CHARACTERS:
        raise ValueError(f"the token has {len(token)} characters; it must have at least {LEAST_TOKEN_CHARACTERS}")


def foreign(headers: Iterable[tuple[bytes, bytes]], *, labels: bool = False) -> str | None:
    """Why a request may not come from this machine and its own pages, None where it does.

    A browser here reaches loopback for any page that it shows. The page gives itself away: by its `Origin`, or, when
    its name was made to lead here (DNS rebinding), by the `Host` that it believes to ask.

    Args:
        headers: of the request, names in lower case.
        labels: whether a host without a dot is taken too, as clients in containers name a gateway: no page of the open
            network has such a name, so none can be made to lead here.
    """
    hosts, origins = ([value.decode("latin-1") for name, value in headers if name == wanted] for wanted in _JUDGED)
    host = hosts[0] if len(hosts) == 1 else ", ".join(hosts)
    name = _name(host)
    if not is_loopback(name) and not (labels and name and not set(name) & set(".:")):
        return f"the host {host!r} is not this machine; a server without a token serves only loopback"
    if any(_place(origin) != host.lower() for origin in origins):
        return f"a page of {', '.join(origins)} may not ask this server, which has no token"
    return None


_JUDGED = (b"host", b"origin")


def _name(host: str) -> str:
    try:
        return urlsplit(f"//{host}").hostname or ""
    except ValueError:
        return ""


def _place(origin: str) -> str:
    try:
        return urlsplit(origin).netloc.lower()
    except ValueError:
        return ""
