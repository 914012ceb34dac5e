"""The gateway: an ASGI application before one OpenAI-compatible server."""

from __future__ import annotations

import asyncio
import contextlib
import math
from collections import deque
from typing import Any

from batchpilot.core import Limits
from batchpilot.serving.gateway.asgi import ClientGoneError, Receive, Scope, Send, answer, answer_json, error_content
from batchpilot.serving.gateway.connection import UpstreamError
from batchpilot.serving.gateway.door import refused_at_the_door
from batchpilot.serving.gateway.exchange import Exchange
from batchpilot.serving.gateway.exposition import exposition
from batchpilot.serving.gateway.gate import Gate
from batchpilot.serving.gateway.live_limits import LiveLimits
from batchpilot.serving.gateway.observer import Observer
from batchpilot.serving.gateway.settings import NOT_HELD, GatewaySettings
from batchpilot.serving.gateway.upstream import Upstream
from batchpilot.serving.gateway.upstream_metrics import UpstreamMetrics, read_upstream_metrics
from batchpilot.serving.session.session import TunerSession

STATUS_PATH, METRICS_PATH, READY_PATH = "/gateway/status", "/metrics", "/ready"
RETRY_SOON = [(b"retry-after", b"5")]
MOST_METRICS_BYTES = 2**24
"""Of an upstream's `/metrics`; what is longer is not read."""

SWEEP_S = 0.05
"""How often windows are closed and those who wait without a chance are told no."""


class Gateway:
    """Holds a tuner's limits in front of a server that nobody can patch.

    Any ASGI server runs it; its lifespan starts and ends the background work. Completion requests wait at the gate,
    everything else goes straight through, and both come back as the upstream wrote them.

    Args:
        session: of the tuner; the gateway closes it.
        settings: where the upstream is and what is promised.

    Attributes:
        draining: whether it is shutting down and takes no new request.
    """

    def __init__(self, session: TunerSession, settings: GatewaySettings) -> None:
        self.draining = False
        self._session, self._settings = session, settings
        self._upstream = Upstream(settings)
        self._gate = Gate(self._limits, self._now_ms, settings.cache_tokens)
        self._observer = Observer(session, self._gate)
        self._exchange = Exchange(settings, self._upstream, self._gate, self._observer, self._now_ms)
        self._live_limits = LiveLimits(self._upstream)
        self._reading: UpstreamMetrics | None = None
        self._reachable = True
        self._others: deque[int] = deque([0, 0], maxlen=2)

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
        """The tuner, the gate and the upstream as one flat dictionary, limits and outcomes within."""
        gate, reading = self._gate, self._reading
        return {
            **self._session.status(),
            "upstream": self._upstream.address,
            "upstream_server": reading.server if reading else None,
            "upstream_reachable": self._reachable,
            "upstream_running": reading.running if reading else None,
            "upstream_waiting": reading.waiting if reading else None,
            "upstream_kv_used_fraction": self._observer.kv_used_fraction,
            "requests_of_others": self._requests_of_others,
            "running": len(gate.inside),
            "waiting": len(gate.line),
            "queued_tokens": gate.queued_tokens,
            "cache_tokens": gate.cache.capacity_tokens if math.isfinite(gate.cache.capacity_tokens) else None,
            "held_body_bytes": self._exchange.bodies.held_bytes,
            "limits_not_held": self._not_held(),
            "limits_held_inside": sorted(self._live_limits.held),
            "predicted_ttft_s": gate.predicted_ttft_ms(1) / 1000.0,
            "predicted_tpot_ms": gate.service.token_ms(gate.texts + 1),
            "ended": dict(self._observer.ended),
            "kept_promises": self._observer.figures.kept_promises,
            **self._observer.figures.percentiles(),
            "last_fault": self._observer.last_fault,
            "output_tokens": self._observer.output_tokens,
        }

    async def _answer(self, scope: Scope, receive: Receive, send: Send) -> None:
        path, method = scope["path"], scope["method"]
        refusal = refused_at_the_door(scope, self._settings)
        if refusal is not None:
            await refusal.tell(send)
        elif dict(scope["headers"]).get(b"upgrade", b"").lower() == b"websocket":
            message = "the gateway speaks no WebSockets; ask by HTTP, or the upstream itself"
            await answer_json(send, 501, error_content(message, "websocket_not_spoken", "invalid_request_error"))
        elif path == STATUS_PATH:
            await answer_json(send, 200, self.status())
        elif path == METRICS_PATH:
            await answer(send, 200, exposition(self.status()).encode(), b"text/plain; version=0.0.4; charset=utf-8")
        elif path.startswith("/gateway/"):
            await answer_json(send, 404, error_content(f"no {path}; there is {STATUS_PATH}", "not_found"))
        elif self.draining and path == READY_PATH:
            await answer_json(send, 503, {"status": "shutting down"})
        elif self.draining:
            await answer_json(send, 503, error_content("the gateway is shutting down", "shutting_down"), RETRY_SOON)
        elif method == "POST" and path in self._settings.paths:
            await self._exchange.complete(scope, receive, send)
        else:
            await self._exchange.pass_on(scope, receive, send)

    def _not_held(self) -> list[str]:
        inside, limits = self._live_limits.held, self._session.limits()
        return [name for name in NOT_HELD if getattr(limits, name) is not None and name not in inside]

    def _limits(self) -> Limits:
        """The tuner's limits, less the places that others take at the upstream."""
        limits, others = self._session.limits(), self._requests_of_others
        return limits.replace(batch_size=max(limits.batch_size - others, 1)) if others else limits

    @property
    def _requests_of_others(self) -> int:
        """Requests at the upstream that came another way: the smaller of two readings, lest one came amid a change."""
        return min(self._others)

    def _now_ms(self) -> float:
        return self._session.now_ms

    async def _live(self, receive: Receive, send: Send) -> None:
        await receive()
        tasks = [asyncio.ensure_future(self._sweep())]
        if self._settings.poll_s:
            tasks.append(asyncio.ensure_future(self._poll()))
        await send({"type": "lifespan.startup.complete"})
        await receive()
        for task in tasks:
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)
        await self._live_limits.give_back()
        self._upstream.close()
        self._session.close()
        await send({"type": "lifespan.shutdown.complete"})

    async def _sweep(self) -> None:
        while True:
            await asyncio.sleep(SWEEP_S)
            self._session.tick()
            self._gate.sweep()

    async def _poll(self) -> None:
        while True:
            try:
                reading = await self._read_upstream()
                if self._settings.live_limits:
                    await self._live_limits.tell(self._session.limits())
            except UpstreamError:
                self._reachable, reading = False, None
                self._live_limits.forget()
            else:
                self._reachable = True
            self._hear(reading)
            await asyncio.sleep(self._settings.poll_s)

    async def _read_upstream(self) -> UpstreamMetrics | None:
        reply = await self._upstream.send("GET", METRICS_PATH.encode(), [], b"")
        try:
            page = b""
            while len(page) <= MOST_METRICS_BYTES and (piece := await reply.piece()):
                page += piece
        finally:
            reply.release()
        return read_upstream_metrics(page.decode(errors="replace")) if reply.status == 200 else None

    def _hear(self, reading: UpstreamMetrics | None) -> None:
        self._reading = reading
        known = reading is not None and not math.isnan(reading.kv_used_fraction)
        self._observer.kv_used_fraction = reading.kv_used_fraction if reading is not None and known else None
        there = reading.running + reading.waiting if reading is not None else 0
        self._others.append(max(there - self._gate.texts, 0))
