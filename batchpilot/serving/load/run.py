"""An open-loop load test: requests go out when they are due, however many are still unanswered. Times in ms."""

from __future__ import annotations

import asyncio
import math
import time
from collections import Counter
from collections.abc import Callable
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from batchpilot.engines.simulation import SimulationResult
from batchpilot.engines.state import FINISH_REASONS
from batchpilot.serving.load.client import Answered, CompletionClient
from batchpilot.serving.load.prompts import DEFAULT_BYTES_PER_TOKEN, PromptWriter
from batchpilot.workloads.table import RequestTable

SAMPLE_TOKENS = 200
UNFINISHED = FINISH_REASONS.index("unfinished")


@dataclass(frozen=True, slots=True)
class LoadSettings:
    """Where the load goes.

    Attributes:
        url: the server's base address.
        model: what requests name; None for the first that the server serves.
        api_key: bearer token.
        bytes_per_token: of prompts; None asks the server.
        grace_s: how long answers are waited for after the last request was due.
        seed: of the prompts' words.
    """

    url: str
    model: str | None = None
    api_key: str | None = None
    bytes_per_token: float | None = None
    grace_s: float = 60.0
    seed: int = 0


@dataclass(frozen=True, eq=False)
class LoadResult:
    """What came of a load test.

    Attributes:
        outcome: per request, as of a simulation: times count from the moment a request was due.
        late_ms: how late the client itself sent each request, shape (n,); its own fault and part of every latency.
        statuses: answers by HTTP status, 0 for none.
        details: what the server said of refusals and failures, by how often.
        model: what requests named.
        bytes_per_token: of prompts.
    """

    outcome: SimulationResult
    late_ms: NDArray[np.float64]
    statuses: dict[int, int]
    details: dict[str, int]
    model: str
    bytes_per_token: float


async def run_load(
    requests: RequestTable, settings: LoadSettings, on_end: Callable[[int], None] | None = None
) -> LoadResult:
    """Send requests at their times and wait for the answers.

    Args:
        requests: an open loop; the first is due one tenth of a second from now, at its own time.
        settings: where to.
        on_end: hears how many have ended, each time one does.

    Raises:
        ValueError: a closed loop, no requests, or the server does not answer.
    """
    if requests.concurrency or not len(requests):
        kind = "a closed loop" if requests.concurrency else "empty"
        raise ValueError(f"the load is {kind}; a load test sends requests at their own times")
    started = time.perf_counter()

    def now_ms() -> float:
        return 1000.0 * (time.perf_counter() - started)

    client = CompletionClient(settings.url, now_ms, api_key=settings.api_key)
    try:
        client.model = settings.model or await client.first_model()
        rng = np.random.default_rng(settings.seed)
        bytes_per_token = settings.bytes_per_token or await _asked(client, rng)
        writer = PromptWriter(bytes_per_token, rng)
        prompts = [writer.write(tokens) for tokens in requests.prompt_tokens.tolist()]
        flight = _Flight(client, requests, prompts, now_ms, on_end)
        await flight.fly(settings.grace_s)
    finally:
        await client.close()
    return flight.result(client.model, bytes_per_token)


async def _asked(client: CompletionClient, rng: np.random.Generator) -> float:
    sample = PromptWriter(DEFAULT_BYTES_PER_TOKEN, rng).write(SAMPLE_TOKENS)
    found = await client.bytes_per_token(sample)
    return DEFAULT_BYTES_PER_TOKEN if math.isnan(found) else found


class _Flight:
    """The requests on their way."""

    def __init__(
        self,
        client: CompletionClient,
        requests: RequestTable,
        prompts: list[str],
        now_ms: Callable[[], float],
        on_end: Callable[[int], None] | None,
    ) -> None:
        self._client, self._requests, self._prompts = client, requests, prompts
        self._now_ms, self._on_end = now_ms, on_end
        self._due_ms = now_ms() + 100.0 + requests.arrival_ms
        self._late_ms = np.full(len(requests), math.nan)
        self._answers: dict[int, Answered] = {}
        self._elapsed_ms = 0.0

    async def fly(self, grace_s: float) -> None:
        """Send everything, wait, and give up on what has not ended in time."""
        tasks = []
        for row, due_ms in enumerate(self._due_ms.tolist()):
            await asyncio.sleep(max(due_ms - self._now_ms(), 0.0) / 1000.0)
            self._late_ms[row] = self._now_ms() - due_ms
            tasks.append(asyncio.ensure_future(self._one(row)))
        _, pending = await asyncio.wait(tasks, timeout=grace_s)
        self._elapsed_ms = self._now_ms() - float(self._due_ms[0])
        for task in pending:
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)

    def result(self, model: str, bytes_per_token: float) -> LoadResult:
        """What has come of it."""
        requests, n = self._requests, len(self._requests)
        columns = np.full((3, n), math.nan)
        code, generated = np.full(n, UNFINISHED, np.int8), np.zeros(n, np.int64)
        for row, answered in self._answers.items():
            due_ms = self._due_ms[row]
            columns[0, row], columns[1, row] = answered.first_ms - due_ms, answered.end_ms - due_ms
            if answered.output_tokens > 1:
                columns[2, row] = (answered.end_ms - answered.first_ms) / (answered.output_tokens - 1)
            code[row] = FINISH_REASONS.index(answered.reason)
            generated[row] = answered.output_tokens
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
            slo_met=(code == FINISH_REASONS.index("length")) & in_time,
            windows=[],
            elapsed_ms=self._elapsed_ms,
            computed_tokens=tokens,
            useful_tokens=tokens,
        )
        statuses = Counter(answered.status for answered in self._answers.values())
        details = Counter(answered.detail for answered in self._answers.values() if answered.detail)
        return LoadResult(outcome, self._late_ms, dict(statuses), dict(details.most_common(20)), model, bytes_per_token)

    async def _one(self, row: int) -> None:
        requests = self._requests
        slo = requests.slos[int(requests.slo_class[row])].name
        output = int(requests.output_tokens[row])
        self._answers[row] = await self._client.complete(self._prompts[row], output, {"x-slo-class": slo})
        if self._on_end is not None:
            self._on_end(len(self._answers))
