"""Requests on their way: an open loop sends them when they are due, however many are unanswered. Times in ms.

In a closed loop each client sends its next request when the last has ended, and a request is due at that moment; in a
conversation a turn is due its think time after the answer to the one before.
"""

from __future__ import annotations

import asyncio
import math
import re
import time
from collections import Counter
from collections.abc import Callable, Mapping
from contextlib import suppress
from dataclasses import dataclass, field
from typing import Any, Protocol

import numpy as np
from numpy.typing import NDArray

from batchpilot.core.image_sizes import image_tokens
from batchpilot.core.slo import SLO
from batchpilot.engines.scheduler.state import FINISH_REASONS
from batchpilot.engines.simulated.result import SimulationResult
from batchpilot.serving.load.answers import Answered
from batchpilot.serving.load.pictures import Pictures
from batchpilot.serving.load.prompts import Prompts
from batchpilot.workloads.table import RequestTable
from batchpilot.workloads.turns import LAST, Turns

LEAD_MS = 100.0
"""The first request is due so long after the start."""

_AT_ONCE = 1024
_MOST_DETAILS = 20
_NUMBER = re.compile(r"\d+(?:[.,]\d+)*")
_CANCELLED = FINISH_REASONS.index("cancelled")
_UNFINISHED = FINISH_REASONS.index("unfinished")
_LENGTH = FINISH_REASONS.index("length")


@dataclass(frozen=True, slots=True)
class Asked:
    """One request.

    Attributes:
        prompt: its text.
        output_tokens: how many tokens are wanted.
        slo: what it was promised.
        priority: 0 high, 1 normal, 2 low.
        user: whose it is, None where there is only one.
        pictures: data URLs, in the prompt's order, each behind the characters of the prompt that stand before it.
    """

    prompt: str
    output_tokens: int
    slo: SLO = field(default_factory=SLO)
    priority: int = 1
    user: str | None = None
    pictures: tuple[tuple[int, str], ...] = ()


class Server(Protocol):
    """What requests are sent to."""

    async def complete(self, asked: Asked) -> Answered:
        """Send one request and wait for the end of its answer; a failure is an answer too.

        Args:
            asked: what is wanted.
        """


@dataclass(frozen=True, slots=True)
class Progress:
    """How far a load test is.

    Attributes:
        sent: requests.
        ended: of them.
        total: requests there are.
    """

    sent: int
    ended: int
    total: int


@dataclass(frozen=True, eq=False)
class LoadResult:
    """What came of a load test.

    Attributes:
        outcome: per request, as of a simulation: times count from the moment a request was due.
        late_ms: how late the client itself was with each request, shape (n,); its own fault and part of every latency.
        statuses: answers by HTTP status, 0 for none.
        details: what the server said of refusals and failures, by how often; what differs only in numbers is told once.
        model: what requests named.
        bytes_per_token: of prompts.
        planned: requests there were to send; more than there are in the outcome when it was interrupted.
        uncounted: complete answers whose server did not say how many tokens they have.
        whole: complete answers that did not stream.
        prompt_ratio: prompt tokens as the server counted them over those wanted; NaN where it does not say.
        server: what it says of itself.
    """

    outcome: SimulationResult
    late_ms: NDArray[np.float64]
    statuses: dict[int, int]
    details: dict[str, int]
    model: str
    bytes_per_token: float
    planned: int
    uncounted: int
    whole: int
    prompt_ratio: float
    server: Mapping[str, Any] = field(default_factory=dict)

    @property
    def interrupted(self) -> bool:
        """Whether requests are missing that there was no time for."""
        return len(self.outcome.requests) < self.planned or self.outcome.count("cancelled") > 0


class Flight:
    """The requests on their way.

    Args:
        server: what they are sent to.
        requests: an open loop, a closed one, or conversations.
        prompts: of the requests.
        now_ms: the clock of the server's answers too.
        on_progress: hears of every request that was sent or has ended.
        pictures: of the requests, where they hold images and the server sees them.

    Raises:
        ValueError: there are no requests, or images that are not sent.
    """

    def __init__(
        self,
        server: Server,
        requests: RequestTable,
        prompts: Prompts,
        now_ms: Callable[[], float],
        on_progress: Callable[[Progress], None] | None = None,
        pictures: Pictures | None = None,
    ) -> None:
        check_some(requests, with_images=pictures is not None)
        self._pictures = pictures
        self._server, self._requests, self._prompts = server, requests, prompts
        self._now_ms, self._on_progress = now_ms, on_progress
        self._due_ms = now_ms() + LEAD_MS + requests.arrival_ms
        if requests.turns is not None:
            self._due_ms[~requests.turns.first()] = math.nan
        self._late_ms = np.full(len(requests), math.nan)
        self._answers: dict[int, Answered] = {}
        self._tasks: list[asyncio.Task[None]] = []
        self._many_users = requests.users > 1
        self._sent = 0
        self._stopped = False
        self._elapsed_ms = 0.0

    async def fly(self, grace_s: float, stop: asyncio.Event | None = None) -> None:
        """Send everything, wait, and give up on what has not ended in time.

        Args:
            grace_s: how long answers are waited for after the last request was due; in a closed loop and
                in conversations, each of them.
            stop: set to stop at once: what is under way is cancelled and counts neither as served nor as missed.
        """
        stop = stop or asyncio.Event()
        stopping = asyncio.ensure_future(stop.wait())
        sending = asyncio.ensure_future(self._sending(grace_s))
        try:
            await asyncio.wait({sending, stopping}, return_when=asyncio.FIRST_COMPLETED)
            if sending.done():
                sending.result()
            if sending.done() and self._tasks:
                answering = asyncio.ensure_future(asyncio.wait(self._tasks))
                await asyncio.wait({answering, stopping}, timeout=grace_s, return_when=asyncio.FIRST_COMPLETED)
                answering.cancel()
        finally:
            self._elapsed_ms = self._now_ms() - float(self._due_ms[0])
            self._stopped = stop.is_set()
            for task in (stopping, sending, *self._tasks):
                task.cancel()
            await asyncio.gather(stopping, sending, *self._tasks, return_exceptions=True)

    def result(self, model: str, bytes_per_token: float) -> LoadResult:
        """What has come of it.

        Args:
            model: what requests named.
            bytes_per_token: of prompts.
        """
        n = self._sent if self._requests.turns is None else len(self._requests)
        requests, due_ms = self._requests.select(slice(n)), self._due_ms
        if requests.concurrency or requests.turns is not None:
            requests = requests.with_arrivals(due_ms[:n] - due_ms[0])
        columns = np.full((3, n), math.nan)
        code, generated = np.full(n, _CANCELLED if self._stopped else _UNFINISHED, np.int8), np.zeros(n, np.int64)
        for row, answered in self._answers.items():
            columns[0, row], columns[1, row] = answered.first_ms - due_ms[row], answered.end_ms - due_ms[row]
            if (apart := answered.output_tokens / answered.choices - 1.0) > 0:
                columns[2, row] = (answered.end_ms - answered.first_ms) / apart
            code[row] = FINISH_REASONS.index(answered.reason)
            generated[row] = answered.output_tokens
        if requests.turns is not None:
            _break_off(requests.turns, code)
        ttft, e2e, tpot = columns
        in_time = (ttft <= requests.ttft_target_ms) & ((generated < 2) | (tpot <= requests.tpot_target_ms))
        tokens = int(generated.sum())
        outcome = SimulationResult(
            requests=requests,
            ttft_ms=ttft,
            e2e_ms=e2e,
            tpot_ms=tpot,
            generated_tokens=generated,
            finish_code=code,
            slo_met=(code == _LENGTH) & in_time,
            windows=[],
            elapsed_ms=self._elapsed_ms,
            computed_tokens=tokens,
            useful_tokens=tokens,
        )
        answers = list(self._answers.values())
        complete = [answered for answered in answers if answered.reason == "length"]
        told = {row: one.prompt_tokens for row, one in self._answers.items() if one.prompt_tokens is not None}
        wanted = int(requests.prompt_tokens[list(told)].sum())
        return LoadResult(
            outcome,
            self._late_ms[:n],
            dict(Counter(answered.status for answered in answers)),
            _grouped([answered.detail for answered in answers if answered.detail]),
            model,
            bytes_per_token,
            planned=len(self._requests),
            uncounted=sum(not answered.counted for answered in complete),
            whole=sum(not answered.streamed for answered in complete),
            prompt_ratio=sum(told.values()) / wanted if wanted else math.nan,
        )

    async def _sending(self, timeout_s: float) -> None:
        if self._requests.turns is not None:
            await self._converse(self._requests.turns, timeout_s)
        elif self._requests.concurrency:
            await self._serve_clients(timeout_s)
        else:
            await self._send()

    async def _send(self) -> None:
        for row, due_ms in enumerate(self._due_ms.tolist()):
            wait_ms = due_ms - self._now_ms()
            # All that are due go out together: a turn of a busy loop takes milliseconds.
            if wait_ms > 0 or row % _AT_ONCE == 0:
                await asyncio.sleep(max(wait_ms, 0.0) / 1000.0)
            self._tasks.append(asyncio.ensure_future(self._one(row)))
            self._sent += 1
            self._tell()

    async def _serve_clients(self, timeout_s: float) -> None:
        rows = iter(range(len(self._requests)))

        async def client() -> None:
            for row in rows:
                self._due_ms[row] = self._now_ms()
                self._sent += 1
                with suppress(TimeoutError):
                    await asyncio.wait_for(self._one(row), timeout_s)

        await asyncio.gather(*(client() for _ in range(self._requests.concurrency)))

    async def _converse(self, turns: Turns, timeout_s: float) -> None:
        following = turns.following()

        async def client(row: int) -> None:
            while True:
                await asyncio.sleep(max(self._due_ms[row] - self._now_ms(), 0.0) / 1000.0)
                self._sent += 1
                with suppress(TimeoutError):
                    await asyncio.wait_for(self._one(row), timeout_s)
                answered, row = self._answers.get(row), int(following[row])
                if row == LAST or answered is None or answered.reason != FINISH_REASONS[_LENGTH]:
                    return
                self._due_ms[row] = answered.end_ms + turns.think_ms[row]

        await asyncio.gather(*(client(int(row)) for row in np.flatnonzero(turns.first())))

    async def _one(self, row: int) -> None:
        requests = self._requests
        asked = Asked(
            self._prompts[row],
            int(requests.output_tokens[row]),
            requests.slos[int(requests.slo_class[row])],
            int(requests.priority[row]),
            f"user-{int(requests.user[row])}" if self._many_users else None,
            self._shown(row),
        )
        self._late_ms[row] = self._now_ms() - self._due_ms[row]
        self._answers[row] = await self._server.complete(asked)
        self._tell()

    def _shown(self, row: int) -> tuple[tuple[int, str], ...]:
        """A request's pictures, each behind the characters before it."""
        images = self._requests.images
        if images is None or self._pictures is None:
            return ()
        each = images.each[row]
        tokens = image_tokens(images.side_px[row][each])
        text = images.before_tokens[row][each] - (np.cumsum(tokens) - tokens)
        before = [round(int(count) * self._prompts.bytes_per_token) for count in text]
        return tuple(zip(before, self._pictures[row], strict=True))

    def _tell(self) -> None:
        if self._on_progress is not None:
            self._on_progress(Progress(self._sent, len(self._answers), len(self._requests)))


def _break_off(turns: Turns, code: NDArray[np.int8]) -> None:
    """Later turns of a conversation that a turn ended are lost for its reason, as in the simulation."""
    following = turns.following()
    for row in np.flatnonzero((code != _LENGTH) & (code != _UNFINISHED)):
        later = following[row]
        while later != LAST:
            code[later] = code[row]
            later = following[later]


def _grouped(details: list[str]) -> dict[str, int]:
    """What was said, the first of those that differ only in their numbers, by how often."""
    first: dict[str, str] = {}
    counts: Counter[str] = Counter()
    for detail in details:
        kind = _NUMBER.sub("#", detail)
        first.setdefault(kind, detail)
        counts[kind] += 1
    return {first[kind]: count for kind, count in counts.most_common(_MOST_DETAILS)}


def check_some(requests: RequestTable, *, with_images: bool) -> None:
    """Refuse a load that is none.

    Args:
        requests: any.
        with_images: whether images can be sent.

    Raises:
        ValueError: there are no requests, or they hold images that cannot be sent.
    """
    if not len(requests):
        raise ValueError("the load is empty: no request falls into the part that is sent")
    if requests.images is not None and not with_images:
        raise ValueError(
            "the requests hold images, which are sent in conversations alone, to a server that is there: give --url of "
            "one that sees (batchpilot serve --vision) and --chat, or leave images, or their columns, out"
        )


def clock_ms() -> Callable[[], float]:
    """A clock that begins now."""
    started = time.perf_counter()
    return lambda: 1000.0 * (time.perf_counter() - started)
