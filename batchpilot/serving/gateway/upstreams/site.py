"""One of several upstreams: whether it may be asked, what it was sent, and the way to it."""

from __future__ import annotations

import asyncio
import json
from collections.abc import Awaitable, Callable
from contextlib import suppress
from typing import Any, TypeVar

from batchpilot.core.files import json_text
from batchpilot.serving.gateway.connection import Connection, UpstreamError
from batchpilot.serving.gateway.member import Member
from batchpilot.serving.gateway.upstream import Outgoing
from batchpilot.serving.gateway.upstreams.breaker import Breaker
from batchpilot.serving.gateway.upstreams.health import Health
from batchpilot.serving.gateway.upstreams.prefixes import PrefixMemory
from batchpilot.serving.gateway.upstreams.spec import FleetSettings, UpstreamSpec
from batchpilot.serving.gateway.waiting import MOVED, RefusedError

RETRY_ILL_S = 2

T = TypeVar("T")


class Site:
    """An upstream among others.

    Args:
        member: with its lanes.
        spec: what was told of it.
        fleet: how patient to be with it.
        now_ms: the clock.

    Attributes:
        member: as given.
        spec: as given.
        breaker: leaves it alone after failures.
        health: checks it.
        prefixes: that it was sent lately.
        sent: requests that went there, retries included.
    """

    def __init__(self, member: Member, spec: UpstreamSpec, fleet: FleetSettings, now_ms: Callable[[], float]) -> None:
        self.member, self.spec = member, spec
        self.breaker = Breaker(fleet.breaker_failures, 1000.0 * fleet.breaker_s)
        self.health = Health(member.upstream, fleet.health_s, fleet.health_failures, self._changed)
        self.prefixes = PrefixMemory()
        self.sent = 0
        self._now_ms = now_ms
        self._key = spec.api_key
        self._beginning: dict[asyncio.Future[Any], None] = {}

    @property
    def name(self) -> str:
        """Its address."""
        return self.member.upstream.address

    async def send(self, request: Outgoing) -> Connection:
        """As `Upstream.send`; given up once the upstream is found ill, so that another one may answer.

        Args:
            request: the request.

        Raises:
            UpstreamError: no answer.
        """
        self.sent += 1
        try:
            return await self.unless_ill(self.member.upstream.send(self._dressed(request)))
        except UpstreamError as failure:
            if failure.code == "upstream_unreachable":
                self.health.hear_failure(failure.reason)
            raise

    async def unless_ill(self, coming: Awaitable[T]) -> T:
        """Wait for the beginning of an answer, until the upstream is found ill.

        Args:
            coming: the beginning.

        Raises:
            UpstreamError: it was, or what `coming` raises.
        """
        beginning = asyncio.ensure_future(coming)
        self._beginning[beginning] = None
        try:
            return await beginning
        except asyncio.CancelledError:
            if beginning in self._beginning:
                raise
            raise self._ill() from None
        finally:
            if not beginning.done():
                beginning.cancel()
            self._beginning.pop(beginning, None)

    def failed(self) -> None:
        """A request failed there."""
        self.breaker.failed(self._now_ms())

    def status(self) -> dict[str, Any]:
        """As plain data."""
        return {
            **self.member.status(),
            "weight": self.spec.weight,
            "version": self.spec.version,
            "tier": self.spec.tier,
            "suspected": self.health.suspected,
            "suspected_why": self.health.why if self.health.suspected else None,
            "breaker": self.breaker.state(self._now_ms()),
            "breaker_opened": self.breaker.opened,
            "sent": self.sent,
            "prefix_blocks": len(self.prefixes),
        }

    def _changed(self, ill: bool) -> None:
        """Who has no answer yet goes elsewhere; who comes back has an empty cache."""
        self.prefixes.forget()
        if not ill:
            self.breaker.succeeded()
            return
        for lane in self.member.lanes:
            lane.gate.turn_out(RefusedError(MOVED, f"{self.name} fell ill: {self.health.why}", RETRY_ILL_S))
        beginning = list(self._beginning)
        self._beginning.clear()
        for sending in beginning:
            sending.cancel()

    def _ill(self) -> UpstreamError:
        return UpstreamError(503, "upstream_ill", f"{self.name} fell ill before it answered ({self.health.why})")

    def _dressed(self, request: Outgoing) -> Outgoing:
        """A request with the upstream's own key and model, where it has such."""
        headers, body = request.headers, request.body
        if self._key is not None:
            others = [(name, value) for name, value in headers if name.lower() not in (b"authorization", b"x-api-key")]
            headers = [*others, (b"authorization", f"Bearer {self._key}".encode())]
        if self.spec.model and isinstance(body, bytes) and body:
            with suppress(ValueError, RecursionError):
                asked = json.loads(body)
                if isinstance(asked, dict) and "model" in asked:
                    body = json_text({**asked, "model": self.spec.model}).encode()
                    others = [(name, value) for name, value in headers if name.lower() != b"content-length"]
                    headers = [*others, (b"content-length", str(len(body)).encode())]
        return request._replace(headers=headers, body=body)
