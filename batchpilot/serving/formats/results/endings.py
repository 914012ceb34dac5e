"""How a request ended, by what a load generator noted of its error."""

from __future__ import annotations

import re

_REFUSED = re.compile(
    r"\b(429|503|529)\b|too many requests|service unavailable|refused_on_arrival|refused_by_guard", re.I
)
_CANCELLED = re.compile(r"cancel", re.I)


def ending(error: str, status: int | None = None) -> str:
    """One of `FINISH_REASONS` for a request that was not served.

    Load generators know no refusals: a server that says in time that it is full counts there as one that failed.

    Args:
        error: what the file says; a status line, a message or a traceback.
        status: the HTTP status, None for unknown.
    """
    if status in (429, 503, 529) or (status is None and _REFUSED.search(error)):
        return "refused_by_guard" if "refused_by_guard" in error else "refused_on_arrival"
    return "cancelled" if status is None and _CANCELLED.search(error) else "failed"
