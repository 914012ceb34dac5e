"""Running a service on uvicorn, and its end: SIGTERM lets running requests finish for a while and refuses new ones."""

from __future__ import annotations

import logging
import threading
from collections.abc import Callable

import uvicorn

from batchpilot.engines import DetectedDevice
from batchpilot.serving.doors.draining import DrainingServer
from batchpilot.serving.doors.origins import check_binding
from batchpilot.serving.doors.protocol import door_settings
from batchpilot.serving.server.app import build_app
from batchpilot.serving.server.service import Service

log = logging.getLogger("batchpilot.server")

_KEEP_ALIVE_S = 75
"""Longer than clients and proxies keep idle connections, so that no request meets one that is being closed."""

_LAST_WORDS_S = 5.0
"""After running requests were cancelled, time for their clients to be told."""


def make_server(
    service: Service,
    *,
    host: str = "127.0.0.1",
    port: int = 8000,
    device: DetectedDevice | None = None,
    on_start: Callable[[int], None] | None = None,
) -> DrainingServer:
    """A server that is ready to run.

    Args:
        service: what answers.
        host: to bind to; more than this machine only with a token.
        port: 0 for any that is free.
        device: what the engine runs on, for the status.
        on_start: hears the port once it listens.

    Raises:
        ValueError: the host can be reached by others and there is no token.
    """
    check_binding(host, service.config.token)
    config = uvicorn.Config(
        build_app(service, device),
        host=host,
        port=port,
        log_level="warning",
        access_log=False,
        timeout_keep_alive=_KEEP_ALIVE_S,
        timeout_graceful_shutdown=int(service.config.grace_s + _LAST_WORDS_S + 1),
        **door_settings(service.config.body_s),
    )

    def cancel() -> None:
        cancelled = service.engine.cancel_all()
        if cancelled:
            log.warning("%d requests were cancelled at the end of the time of grace", cancelled)

    def drain() -> None:
        service.draining = True
        timer = threading.Timer(service.config.grace_s, cancel)
        timer.daemon = True
        timer.start()

    return DrainingServer(config, drain, on_start)
