"""Running a service on uvicorn, and its end: SIGTERM lets running requests finish for a while and refuses new ones."""

from __future__ import annotations

import logging
import socket
import threading
from collections.abc import Callable
from types import FrameType

import uvicorn

from batchpilot.engines import DetectedDevice
from batchpilot.serving.server.app import build_app
from batchpilot.serving.server.authorisation import check_binding
from batchpilot.serving.server.service import Service

log = logging.getLogger("batchpilot.server")

_KEEP_ALIVE_S = 75
"""Longer than clients and proxies keep idle connections, so that no request meets one that is being closed."""

_LAST_WORDS_S = 5.0
"""After running requests were cancelled, time for their clients to be told."""


class DrainingServer(uvicorn.Server):
    """A server that says when it begins to shut down.

    Args:
        config: uvicorn's.
        service: what it serves.
        on_start: hears the port once it listens.
    """

    def __init__(self, config: uvicorn.Config, service: Service, on_start: Callable[[int], None] | None = None) -> None:
        super().__init__(config)
        self._service, self._on_start = service, on_start

    @property
    def port(self) -> int:
        """Where it listens, once it has started."""
        return int(self.servers[0].sockets[0].getsockname()[1])

    async def startup(self, sockets: list[socket.socket] | None = None) -> None:
        """Begin to listen, and say where.

        Args:
            sockets: uvicorn's.
        """
        await super().startup(sockets)
        if self.started and self._on_start is not None:
            self._on_start(self.port)

    def handle_exit(self, sig: int, frame: FrameType | None) -> None:
        """Refuse new requests, and cancel after the time of grace what still runs.

        Args:
            sig: the signal.
            frame: where it came.
        """
        self.drain()
        super().handle_exit(sig, frame)

    def drain(self) -> None:
        """As `handle_exit`, without its end; a second call does nothing."""
        if not self._service.draining:
            self._service.draining = True
            timer = threading.Timer(self._service.config.grace_s, self._cancel)
            timer.daemon = True
            timer.start()

    def _cancel(self) -> None:
        cancelled = self._service.engine.cancel_all()
        if cancelled:
            log.warning("%d requests were cancelled at the end of the time of grace", cancelled)


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
    )
    return DrainingServer(config, service, on_start)
