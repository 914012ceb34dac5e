"""Redirects of the upstream, made to lead back to the gateway: who followed them as they are would pass the gate."""

from __future__ import annotations

from urllib.parse import SplitResult, urlsplit, urlunsplit

from batchpilot.serving.doors.origins import is_loopback

_PORTS = {"http": 80, "https": 443}


def led_back(location: str, upstream: str) -> str | None:
    """Where a redirect leads, as a client of the gateway has to ask for it; None for another server's address.

    Args:
        location: of the answer.
        upstream: base address, `http://host:port` or with a path.
    """
    base = urlsplit(upstream)
    try:
        there = urlsplit(location)
        if there.netloc and _place(there, base.scheme) != _place(base, base.scheme):
            return None
    except ValueError:
        return None
    if there.scheme and not there.netloc:
        return None
    prefix = base.path.rstrip("/")
    path = there.path
    if prefix and (path == prefix or path.startswith(f"{prefix}/")):
        path = path[len(prefix) :]
    if there.netloc:
        path = path or "/"
    # A path that begins with two slashes would be read as a host.
    return urlunsplit(("", "", f"/.{path}" if path.startswith("//") else path, there.query, there.fragment))


def _place(address: SplitResult, scheme: str) -> tuple[str, int | None]:
    """Host and port; the names of this machine are one."""
    name = address.hostname or ""
    port = address.port or _PORTS.get(address.scheme or scheme)
    return "localhost" if is_loopback(name) else name, port
