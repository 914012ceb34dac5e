"""The same load without HTTP: the reference server's engine, session and tuner in this process. Needs torch.

What it says beside a load over HTTP is what HTTP costs; beside a simulation, what the host's time around steps costs.
"""

from __future__ import annotations

import asyncio
import math
from collections.abc import Callable

from batchpilot.core.sampling import Sampling
from batchpilot.serving.load.answers import Answered
from batchpilot.serving.load.flight import Asked, Flight, LoadResult, Progress, check_some
from batchpilot.serving.load.prompts import Prompts
from batchpilot.serving.server.generation import ENDED_WELL, Generation, Heard, Order, Outlet
from batchpilot.serving.server.service import Service
from batchpilot.serving.session.session import REJECTIONS
from batchpilot.workloads.table import RequestTable

_PRIORITIES = ("high", "normal", "low")
_DRAINED_S = 10.0


async def run_in_process(
    requests: RequestTable,
    service: Service,
    prompts: Prompts,
    *,
    grace_s: float = 60.0,
    on_progress: Callable[[Progress], None] | None = None,
    stop: asyncio.Event | None = None,
) -> LoadResult:
    """Give requests to an engine at their times and wait for the answers.

    Args:
        requests: an open loop, or a closed one.
        service: what `build_service` made, not started; it is stopped afterwards.
        prompts: of the requests.
        grace_s: how long answers are waited for after the last request was due.
        on_progress: hears of every request that was sent or has ended.
        stop: set to stop early, with what has ended.

    Raises:
        ValueError: there are no requests, or they hold images.
    """
    check_some(requests, with_images=False)
    server = _Engine(service)
    service.engine.start(asyncio.get_running_loop())
    try:
        flight = Flight(server, requests, prompts, server.now_ms, on_progress)
        await flight.fly(grace_s, stop)
    finally:
        await asyncio.to_thread(service.engine.stop, _DRAINED_S)
        service.session.close()
    return flight.result(service.config.model, prompts.bytes_per_token)


class _Engine:
    """Completes requests as the server's routes do, but for text, events and sockets."""

    def __init__(self, service: Service) -> None:
        self._service = service

    def now_ms(self) -> float:
        """The engine's clock."""
        return 1000.0 * self._service.clock()

    async def complete(self, asked: Asked) -> Answered:
        """Send one request and wait for the end of its answer.

        Args:
            asked: what is wanted.
        """
        engine = self._service.engine
        said: asyncio.Queue[Heard] = asyncio.Queue()
        generation = Generation(self._order(asked), Outlet(said.put_nowait, 0))
        engine.submit(generation)
        first_ms = last_ms = math.nan
        try:
            while True:
                _, piece = await said.get()
                if piece.token is not None:
                    last_ms = self.now_ms()
                    first_ms = last_ms if math.isnan(first_ms) else first_ms
                if piece.finished is not None:
                    break
        finally:
            if not generation.ended:
                engine.cancel(generation)
        prompt, tokens = len(generation.order.prompt), generation.tokens
        if piece.finished in ENDED_WELL:
            return Answered("length", 0, first_ms, last_ms, tokens, counted=True, prompt_tokens=prompt)
        reason = piece.finished if piece.finished in (*REJECTIONS, "cancelled") else "failed"
        detail = piece.mistake or piece.finished
        return Answered(reason, 0, first_ms, self.now_ms(), tokens, detail, counted=True, prompt_tokens=prompt)

    def _order(self, asked: Asked) -> Order:
        return Order(
            prompt=self._service.text.encode(asked.prompt),
            max_tokens=asked.output_tokens,
            sampling=Sampling(temperature=0.0),
            ttft_target_ms=asked.slo.ttft_ms,
            tpot_target_ms=asked.slo.tpot_ms,
            priority=_PRIORITIES[asked.priority],
            user=asked.user,
            arrived_s=self._service.clock(),
        )
