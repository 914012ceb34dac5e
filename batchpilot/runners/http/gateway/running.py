"""A gateway from its first request to its last answer."""

from __future__ import annotations

from collections.abc import Callable
from contextlib import suppress

import typer

from batchpilot.core.extras import needing
from batchpilot.serving.doors.origins import check_binding
from batchpilot.serving.gateway.settings import GatewaySettings
from batchpilot.serving.gateway.upstreams.desired import DesiredReplicas
from batchpilot.serving.gateway.upstreams.spec import FleetSettings
from batchpilot.serving.interpreter import keep_what_is_loaded, share_sooner
from batchpilot.serving.session.session import TunerSession


def serve(
    session: TunerSession,
    settings: GatewaySettings,
    host: str,
    port: int,
    another: Callable[[], TunerSession] | None = None,
    fleet: FleetSettings | None = None,
    one_more: Callable[[], TunerSession] | None = None,
    desired: DesiredReplicas | None = None,
    seed: int = 0,
) -> None:
    """Run a gateway until it is interrupted; whoever comes then is told no until the last answer is out.

    Args:
        session: of the tuner.
        settings: of the gateway.
        host: where to listen.
        port: likewise, 0 for any that is free.
        another: makes a session for each further engine of the upstream; None where all models share one.
        fleet: several upstreams, None for the one in the settings.
        one_more: makes a session for each upstream after the first.
        desired: says how many upstreams there should be.
        seed: of the routing rules that draw.

    Raises:
        MissingExtraError: the packages of the extra `serve` are missing.
        ValueError: the host can be reached by others and there is no token.
    """
    with needing("the gateway", "serve"):
        import uvicorn

        from batchpilot.serving.doors.draining import DrainingServer
        from batchpilot.serving.doors.protocol import door_settings
        from batchpilot.serving.gateway import Gateway
    check_binding(host, settings.token)
    share_sooner()
    gateway = Gateway(session, settings, another, fleet, one_more, desired, seed)
    keep_what_is_loaded()

    def tell(bound_port: int) -> None:
        where = f"http://{f'[{host}]' if ':' in host else host}:{bound_port}"
        before = ", ".join(spec.url for spec in fleet.upstreams) if fleet else settings.upstream
        typer.echo(f"gateway on {where} before {before}, tuner {session.tuner.name}", err=True)

    # The upstream's own Date and Server go through unchanged, and so do the names of proxies before us.
    config = uvicorn.Config(
        gateway,
        host=host,
        port=port,
        log_level="warning",
        access_log=False,
        date_header=False,
        server_header=False,
        proxy_headers=False,
        **door_settings(settings.body_s),
    )
    with suppress(KeyboardInterrupt):
        DrainingServer(config, gateway.drain, tell).run()
