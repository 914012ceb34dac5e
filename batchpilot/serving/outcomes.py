"""What an answer may turn out to be, and which of it an error of an OpenAI-compatible server says."""

from __future__ import annotations

import json
import re
from collections.abc import Mapping
from typing import Any

SERVED, REFUSED, REFUSED_BY_GUARD, FAILED = "length", "refused_on_arrival", "refused_by_guard", "failed"
"""What an answer may turn out to be."""

REFUSALS = (429, 503)

MOST_TOLD = 300
"""Characters of an error that are kept."""

_BUSY = re.compile(r"overload|unavailable|rate.?limit|too.?many.?requests", re.IGNORECASE)
_NO_ROOM = re.compile(r"context size has been exceeded", re.IGNORECASE)
"""llama.cpp, status 500, of every active request once the sum of contexts passes what its unified cache holds."""


def is_busy(error: object, beside: Mapping[str, Any] | None = None) -> bool:
    """Whether an error says that the server has too much to do, rather than that something is wrong.

    Args:
        error: an error object, or what it says.
        beside: what stands beside it.
    """
    told = {**(beside or {}), **(error if isinstance(error, Mapping) else {})}
    code = str(told.get("code") or told.get("status") or "")
    if code.startswith("upstream_"):
        return False
    kinds = (code, str(told.get("type") or ""), str(told.get("error_type") or ""))
    return code in map(str, REFUSALS) or any(_BUSY.search(kind) for kind in kinds)


def refusal(status: int, told: str) -> str:
    """What an answer of status 400 or more means: a refusal for now, or a failure.

    Args:
        status: HTTP status.
        told: its body, as much of it as is known.

    Returns:
        `REFUSED`, `REFUSED_BY_GUARD` or `FAILED`.
    """
    if status not in REFUSALS:
        return REFUSED if is_out_of_room(told) and status >= 500 else FAILED
    data = parsed(told.encode())
    error = data.get("error") if isinstance(data, dict) else None
    code = error.get("code") if isinstance(error, dict) else None
    if isinstance(code, str) and code.startswith("upstream_"):
        return FAILED
    return REFUSED_BY_GUARD if REFUSED_BY_GUARD in told else REFUSED


def is_out_of_room(told: str) -> bool:
    """Whether a server says that what its requests hold together no longer fits into its KV cache.

    Args:
        told: its words.
    """
    return bool(_NO_ROOM.search(told))


def shown(told: str) -> str:
    """As much of what a server said as a report holds, on one line.

    Args:
        told: any text.
    """
    return " ".join(told.split())[:MOST_TOLD]


def parsed(text: bytes) -> Any:
    """A JSON value, None for what is none.

    Args:
        text: any bytes.
    """
    try:
        return json.loads(text)
    except (ValueError, RecursionError):
        return None
