"""What a server says of itself, so that a report's origin is the server's and not a catalogue's."""

from __future__ import annotations

import asyncio
import json
from collections.abc import Awaitable, Callable, Mapping
from typing import Any

from batchpilot.serving.load.responses import HttpError

ROUTES: dict[str, tuple[str, ...]] = {
    "/gateway/status": ("tuner", "limits", "upstream_server"),
    "/api/scheduler/tuner": ("tuner", "limits", "gpu_model", "gpu_memory_mb"),
    "/version": ("version",),
    "/server_info": ("version", "model_path", "dtype", "tp_size", "pp_size"),
    "/info": ("version", "model_id", "model_dtype", "model_device_type"),
    "/props": ("build_info", "model_path", "total_slots"),
}
"""Where servers tell it: batchpilot's gateway and server, vLLM, SGLang, text-generation-inference, llama.cpp."""

LISTED = ("owned_by", "root", "max_model_len")
"""What an entry of `/v1/models` may hold beside its name."""

PATIENCE_S = 5.0
"""For all the answers together: a server that does not know a route may keep silent."""


async def asked_of(get: Callable[[str], Awaitable[str]], listed: Mapping[str, Any]) -> dict[str, Any]:
    """Ask a server what it is.

    Args:
        get: the body of an answer to a GET with status 200; raises HttpError or OSError for any other.
        listed: the model's entry in `/v1/models`.

    Returns:
        Plain values by name, the first route that names one going before; none for a server that says nothing.
    """
    found = {name: listed[name] for name in LISTED if _is_told(listed.get(name))}
    try:
        async with asyncio.timeout(PATIENCE_S):
            for route, names in ROUTES.items():
                told = await _told(get, route)
                found = {name: told[name] for name in names if _is_told(told.get(name))} | found
    except TimeoutError:
        pass
    return found


async def _told(get: Callable[[str], Awaitable[str]], route: str) -> Mapping[str, Any]:
    try:
        told = json.loads(await get(route))
    except (HttpError, OSError, ValueError):
        return {}
    return told if isinstance(told, dict) else {}


def _is_told(value: object) -> bool:
    return value not in (None, "", "unknown") and isinstance(value, (str, int, float, dict))
