"""One upstream of a gateway: the way to it, the lanes of its engines, and what its own pages say."""

from __future__ import annotations

import asyncio
import contextlib
import json
from collections.abc import Callable
from typing import Any

from batchpilot.serving.gateway.connection import UpstreamError
from batchpilot.serving.gateway.engines import Lanes
from batchpilot.serving.gateway.lane import Lane
from batchpilot.serving.gateway.late_log import LateLog
from batchpilot.serving.gateway.live_limits import LiveLimits
from batchpilot.serving.gateway.settings import NOT_HELD, GatewaySettings
from batchpilot.serving.gateway.upstream import Outgoing, Upstream
from batchpilot.serving.gateway.upstream_metrics import read_upstream_metrics
from batchpilot.serving.recording import StepRecorder
from batchpilot.serving.session.session import TunerSession

METRICS_PATH, MODELS_PATH = "/metrics", "/v1/models"

MOST_PAGE_BYTES = 2**24
"""Of an upstream's `/metrics` and its list of models; what is longer is not read."""

LISTING_POLLS = 10
"""Models are listed with every so many readings of the metrics, and with the next one after an unlisted was asked."""


class Member:
    """An upstream with everything that is its own.

    Args:
        session: of the tuner of its first engine; closed with the member.
        settings: its address and what is promised.
        recorder: hears its steps.
        another: makes a session for each further engine; None where all its models share one.
        name: in recordings, "" where it is the only upstream.
        late_log: hears of requests that were late or failed, None for nobody.

    Attributes:
        upstream: the way to it.
        lanes: of its engines.
        reachable: whether the last poll reached it.
    """

    def __init__(
        self,
        session: TunerSession,
        settings: GatewaySettings,
        recorder: StepRecorder,
        another: Callable[[], TunerSession] | None = None,
        name: str = "",
        late_log: LateLog | None = None,
    ) -> None:
        def lane(session: TunerSession) -> Lane:
            return Lane(session, recorder, settings.cache_tokens, name, late_log, settings.tenants)

        self.upstream = Upstream(settings)
        self.lanes = Lanes(lane(session), None if another is None else lambda: lane(another()))
        self.reachable = True
        self._settings = settings
        self._live_limits = LiveLimits(self.upstream)

    def status(self) -> dict[str, Any]:
        """The tuner, the gate and the upstream as one flat dictionary, limits and outcomes within.

        Of several engines those of the first, and of each by name under `engines`.
        """
        first, lanes = self.lanes.first, self.lanes
        engines = {lane.name: lane.status() for lane in lanes} if lanes.several else {}
        return {
            **first.status(),
            "upstream": self.upstream.address,
            "upstream_server": first.reading.server if first.reading else None,
            "upstream_reachable": self.reachable,
            "limits_not_held": self._not_held(),
            "limits_held_inside": sorted(self._live_limits.held),
            **({"engine": first.name, "engines": engines, "models": lanes.models} if engines else {}),
        }

    def sweep(self) -> None:
        """Close windows whose time is up, and tell those no who wait in vain."""
        for lane in self.lanes:
            lane.sweep()

    async def poll(self) -> None:
        """Read what the upstream says of itself, for ever."""
        polls = 0
        while True:
            try:
                if self.lanes.may_grow and (polls % LISTING_POLLS == 0 or self.lanes.unlisted):
                    await self._list_models()
                page = await self._page(METRICS_PATH, [])
                if self._settings.live_limits and not self.lanes.several:
                    await self._live_limits.tell(self.lanes.first.session.limits())
            except UpstreamError:
                self.reachable, page = False, None
                self._live_limits.forget()
            else:
                self.reachable = True
            self._hear(page)
            polls += 1
            await asyncio.sleep(self._settings.poll_s)

    async def close(self) -> None:
        """Give limits back, and close connections and sessions."""
        await self._live_limits.give_back()
        self.upstream.close()
        for lane in self.lanes:
            lane.session.close()

    def _not_held(self) -> list[str]:
        inside, limits = self._live_limits.held, self.lanes.first.session.limits()
        return [name for name in NOT_HELD if name in limits.in_force() and name not in inside]

    async def _list_models(self) -> None:
        key = self._settings.api_key
        page = await self._page(MODELS_PATH, [(b"authorization", f"Bearer {key}".encode())] if key else [])
        with contextlib.suppress(ValueError, RecursionError):
            await self.lanes.hear_listing(json.loads(page or ""))

    async def _page(self, path: str, headers: list[tuple[bytes, bytes]]) -> str | None:
        """What the upstream says at a path, None where it has no such page."""
        reply = await self.upstream.send(Outgoing("GET", path.encode(), headers))
        try:
            page = b""
            while len(page) <= MOST_PAGE_BYTES and (piece := await reply.piece()):
                page += piece
        finally:
            reply.release()
        return page.decode(errors="replace") if reply.status == 200 else None

    def _hear(self, page: str | None) -> None:
        for lane in self.lanes:
            models = self.lanes.models_of(lane) if self.lanes.several else None
            lane.hear_metrics(None if page is None else read_upstream_metrics(page, models))
