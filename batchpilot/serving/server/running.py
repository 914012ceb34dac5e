"""Running a service on uvicorn, and its end: SIGTERM lets running requests finish for a while and refuses new ones."""

from __future__ import annotations

import logging
import threading
from collections.abc import Callable

from batchpilot.engines import DetectedDevice
from batchpilot.serving.doors.draining import DrainingServer
from batchpilot.serving.doors.origins import check_binding
from batchpilot.serving.server.app import build_app
from batchpilot.serving.server.front.fronted import FrontedServer
from batchpilot.serving.server.front.wire import Opening
from batchpilot.serving.server.listening import listening
from batchpilot.serving.server.service import Service

log = logging.getLogger("batchpilot.server")


def make_server(
    service: Service,
    *,
    host: str = "127.0.0.1",
    port: int = 8000,
    device: DetectedDevice | None = None,
    on_start: Callable[[int], None] | None = None,
    apart: bool = False,
) -> DrainingServer | FrontedServer:
    """A server that is ready to run.

    Args:
        service: what answers.
        host: to bind to; more than this machine only with a token.
        port: 0 for any that is free.
        device: what the engine runs on, for the status.
        on_start: hears the port once it listens.
        apart: HTTP in a process of its own, which costs the engine's interpreter a message a step; the service's
            tokenizer can be pickled then.

    Raises:
        ValueError: the host can be reached by others and there is no token.
    """
    check_binding(host, service.config.token)
    app = build_app(service, device)
    if not apart:
        return DrainingServer(listening(app, service.config, host, port), lambda: _drain(service), on_start)
    opening = Opening(service.config, service.text, service.engine.longest, service.started, host, port)
    return FrontedServer(service, app, opening, lambda: _drain(service), on_start)


def _drain(service: Service) -> None:
    """Take no new request, and cancel what runs after the time of grace."""

    def cancel() -> None:
        cancelled = service.engine.cancel_all()
        if cancelled:
            log.warning("%d requests were cancelled at the end of the time of grace", cancelled)

    service.draining = True
    timer = threading.Timer(service.config.grace_s, cancel)
    timer.daemon = True
    timer.start()
