"""How uvicorn listens for a server, whichever process it is in."""

from __future__ import annotations

import uvicorn
from fastapi import FastAPI

from batchpilot.serving.doors.protocol import door_settings
from batchpilot.serving.server.config import ServerConfig

_KEEP_ALIVE_S = 75
"""Longer than clients and proxies keep idle connections, so that no request meets one that is being closed."""

_LAST_WORDS_S = 5.0
"""After running requests were cancelled, time for their clients to be told."""


def listening(app: FastAPI, config: ServerConfig, host: str, port: int) -> uvicorn.Config:
    """What uvicorn is told.

    Args:
        app: the application.
        config: of the server.
        host: to bind to.
        port: 0 for any that is free.
    """
    return uvicorn.Config(
        app,
        host=host,
        port=port,
        log_level="warning",
        access_log=False,
        timeout_keep_alive=_KEEP_ALIVE_S,
        timeout_graceful_shutdown=int(config.grace_s + _LAST_WORDS_S + 1),
        **door_settings(config.body_s),
    )
