"""The gateway: an ASGI application before one OpenAI-compatible server, which may have several engines, or several."""

from __future__ import annotations

import asyncio
import contextlib
import random
from collections.abc import Callable, Iterator
from dataclasses import replace
from typing import Any

from batchpilot.serving.gateway.asgi import ClientGoneError, Receive, Scope, Send, answer, answer_json, error_content
from batchpilot.serving.gateway.door import refused_at_the_door
from batchpilot.serving.gateway.exchange import Exchange
from batchpilot.serving.gateway.exposition import exposition
from batchpilot.serving.gateway.late_log import LateLog
from batchpilot.serving.gateway.live_page import PAGE_PATH, page_part, send_part
from batchpilot.serving.gateway.member import Member
from batchpilot.serving.gateway.record_route import RECORD_PATH, record, recording_status
from batchpilot.serving.gateway.settings import RECORD_FILE, GatewaySettings
from batchpilot.serving.gateway.upstreams.canary_route import CANARY_PATH, canary
from batchpilot.serving.gateway.upstreams.desired import DesiredReplicas
from batchpilot.serving.gateway.upstreams.pool import Pool
from batchpilot.serving.gateway.upstreams.site import Site
from batchpilot.serving.gateway.upstreams.spec import FleetSettings
from batchpilot.serving.gateway.ways import OneWay, Ways
from batchpilot.serving.recording import StepRecorder
from batchpilot.serving.session.session import TunerSession

STATUS_PATH, METRICS_PATH, READY_PATH = "/gateway/status", "/metrics", "/ready"
RETRY_SOON = [(b"retry-after", b"5")]

SWEEP_S = 0.05
"""How often windows are closed and those who wait without a chance are told no."""


class Gateway:
    """Holds a tuner's limits in front of servers that nobody can patch.

    Any ASGI server runs it; its lifespan starts and ends the background work. Completion requests wait at the gate,
    everything else goes straight through, and both come back as the upstream wrote them.

    Args:
        session: of the tuner; the gateway closes it.
        settings: where the upstream is and what is promised.
        another: makes a session for each further engine that an upstream's models run in, which the gateway closes as
            well; None where all of them share one.
        fleet: several upstreams instead of the one in `settings`; None for that one.
        one_more: makes the session of each upstream after the first; needed with `fleet`.
        desired: says how many upstreams there should be.
        seed: of the routing rules that draw.

    Attributes:
        draining: whether it is shutting down and takes no new request.

    Raises:
        ValueError: the file to record into holds something else, or an address is none.
        OSError: the file cannot be written.
    """

    def __init__(
        self,
        session: TunerSession,
        settings: GatewaySettings,
        another: Callable[[], TunerSession] | None = None,
        fleet: FleetSettings | None = None,
        one_more: Callable[[], TunerSession] | None = None,
        desired: DesiredReplicas | None = None,
        seed: int = 0,
    ) -> None:
        self.draining = False
        self._settings = settings
        self._recorder = StepRecorder(settings.record or RECORD_FILE, largest_mb=settings.record_mb)
        self._late_log = None if settings.late_log is None else LateLog(settings.late_log)
        self._desired = desired or DesiredReplicas()
        self._pool: Pool | None = None

        def now_ms() -> float:
            return session.now_ms

        def site(number: int, fleet: FleetSettings) -> Site:
            spec = fleet.upstreams[number]
            own = replace(settings, upstream=spec.url, api_key=spec.api_key or settings.api_key)
            if number and one_more is None:
                raise ValueError("several upstreams need one_more, which makes the session of each after the first")
            tuned = session if not number or one_more is None else one_more()
            return Site(Member(tuned, own, self._recorder, another, spec.url, self._late_log), spec, fleet, now_ms)

        if fleet is None:
            self._members = [Member(session, settings, self._recorder, another, late_log=self._late_log)]
            ways: Ways = OneWay(self._members[0].upstream, self._members[0].lanes)
        else:
            sites = [site(number, fleet) for number in range(len(fleet.upstreams))]
            self._members = [site.member for site in sites]
            ways = self._pool = Pool(sites, fleet, now_ms, random.Random(seed))
        if settings.record is not None:
            self._recorder.start()
        self._exchange = Exchange(settings, ways, now_ms)

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Serve one connection's request, or the lifespan.

        Args:
            scope: ASGI.
            receive: ASGI.
            send: ASGI.
        """
        if scope["type"] == "lifespan":
            await self._live(receive, send)
        elif scope["type"] != "http":
            await send({"type": "websocket.close", "code": 1003, "reason": "the gateway speaks no WebSockets"})
        else:
            with contextlib.suppress(ClientGoneError):
                await self._answer(scope, receive, send)

    def drain(self) -> None:
        """Take no new request from now on."""
        self.draining = True

    def status(self) -> dict[str, Any]:
        """The tuner, the gate and the upstream as one flat dictionary, limits and outcomes within.

        Of several upstreams each by address under `upstreams`, and what they share beside it; of an upstream's several
        engines those of the first, and of each by name under `engines`.
        """
        buckets = self._exchange.buckets
        return {
            **(self._members[0].status() if self._pool is None else self._pool.status()),
            "held_body_bytes": self._exchange.bodies.held_bytes,
            "desired_replicas": self._desired.replicas,
            **({"rate_limited": buckets.refused} if buckets is not None else {}),
            **recording_status(self._recorder),
        }

    async def _answer(self, scope: Scope, receive: Receive, send: Send) -> None:
        path, method = scope["path"], scope["method"]
        refusal = refused_at_the_door(scope, self._settings, [member.upstream.address for member in self._members])
        if refusal is not None:
            await refusal.tell(send)
        elif dict(scope["headers"]).get(b"upgrade", b"").lower() == b"websocket":
            message = "the gateway speaks no WebSockets; ask by HTTP, or the upstream itself"
            await answer_json(send, 501, error_content(message, "websocket_not_spoken", "invalid_request_error"))
        elif path == STATUS_PATH:
            await answer_json(send, 200, self.status())
        elif path == METRICS_PATH:
            page = exposition(self.status())
            await answer(send, 200, page.encode(), b"text/plain; version=0.0.4; charset=utf-8")
        elif path == RECORD_PATH:
            await record(self._recorder, self._settings.body_s, scope, receive, send)
        elif path == CANARY_PATH and self._pool is not None:
            await canary(self._pool, self._settings.body_s, scope, receive, send)
        elif (part := page_part(path)) is not None:
            await send_part(part, send)
        elif path.startswith(PAGE_PATH):
            there = ", ".join((PAGE_PATH, STATUS_PATH, RECORD_PATH, *((CANARY_PATH,) if self._pool else ())))
            await answer_json(send, 404, error_content(f"no {path}; there are {there}", "not_found"))
        elif self.draining and path == READY_PATH:
            await answer_json(send, 503, {"status": "shutting down"})
        elif self.draining:
            await answer_json(send, 503, error_content("the gateway is shutting down", "shutting_down"), RETRY_SOON)
        elif method == "POST" and path in self._settings.paths:
            await self._exchange.complete(scope, receive, send)
        else:
            await self._exchange.pass_on(scope, receive, send)

    def _background(self) -> Iterator[asyncio.Task[None]]:
        yield asyncio.ensure_future(self._sweep())
        if self._settings.poll_s:
            yield from (asyncio.ensure_future(member.poll()) for member in self._members)
        if self._pool is not None and self._pool.fleet.health_s:
            yield from (asyncio.ensure_future(site.health.watch()) for site in self._pool.sites)

    async def _live(self, receive: Receive, send: Send) -> None:
        await receive()
        tasks = list(self._background())
        await send({"type": "lifespan.startup.complete"})
        await receive()
        for task in tasks:
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)
        for member in self._members:
            await member.close()
        self._recorder.stop()
        if self._late_log is not None:
            self._late_log.close()
        await send({"type": "lifespan.shutdown.complete"})

    async def _sweep(self) -> None:
        while True:
            await asyncio.sleep(SWEEP_S)
            for member in self._members:
                member.sweep()
            if self._pool is not None:
                self._pool.sweep()
            well = [m for m in self._members if self._pool is None or not self._pool.suspects(m)]
            self._desired.hear(well, asyncio.get_running_loop().time())
