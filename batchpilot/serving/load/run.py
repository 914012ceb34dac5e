"""A load test over HTTP."""

from __future__ import annotations

import asyncio
import gc
import math
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field, replace

from batchpilot.serving.load.client import CompletionClient, Dialect
from batchpilot.serving.load.files import allow_many_files
from batchpilot.serving.load.flight import Flight, LoadResult, Progress, check_some, clock_ms
from batchpilot.serving.load.http import Address
from batchpilot.serving.load.pictures import Pictures
from batchpilot.serving.load.prompts import DEFAULT_BYTES_PER_TOKEN, Prompts, sample
from batchpilot.workloads.table import RequestTable

__all__ = ["LoadResult", "LoadSettings", "run_load"]

SAMPLE_TOKENS = 200


@dataclass(frozen=True, slots=True)
class LoadSettings:
    """Where the load goes.

    Attributes:
        url: the server's base address.
        model: what requests name; None for the first that the server serves.
        api_key: bearer token.
        bytes_per_token: of prompts; None asks the server.
        grace_s: how long answers are waited for after the last request was due.
        seed: of the prompts' words and the pictures' shades.
        dialect: how completions are asked for.
    """

    url: str
    model: str | None = None
    api_key: str | None = None
    bytes_per_token: float | None = None
    grace_s: float = 60.0
    seed: int = 0
    dialect: Dialect = field(default_factory=Dialect)

    def __post_init__(self) -> None:
        for name, given in (("bytes_per_token", self.bytes_per_token), ("grace_s", self.grace_s)):
            if given is not None and not (math.isfinite(given) and given > 0):
                raise ValueError(f"{name} is {given}; it must be above 0")


async def run_load(
    requests: RequestTable,
    settings: LoadSettings,
    on_progress: Callable[[Progress], None] | None = None,
    stop: asyncio.Event | None = None,
) -> LoadResult:
    """Send requests at their times and wait for the answers.

    Args:
        requests: an open loop, whose first is due one tenth of a second from now and at its own time; or a closed one.
        settings: where to.
        on_progress: hears of every request that was sent or has ended.
        stop: set to stop early, with what has ended.

    Raises:
        ValueError: no requests, images though not in conversations, no address, or the server does not answer.
    """
    images = requests.images
    check_some(requests, with_images=settings.dialect.chat)
    now_ms = clock_ms()
    client = CompletionClient(Address.parse(settings.url), now_ms, api_key=settings.api_key, dialect=settings.dialect)
    allow_many_files()
    try:
        await client.find_model(settings.model)
        identity = await client.identity()
        bytes_per_token = settings.bytes_per_token or await _asked(client, settings.seed)
        text_tokens = requests.prompt_tokens if images is None else requests.prompt_tokens - images.tokens
        prompts = Prompts(text_tokens, bytes_per_token, settings.seed, requests.turns, requests.prefixes, images)
        pictures = None if images is None else Pictures(images, settings.seed)
        flight = Flight(client, requests, prompts, now_ms, on_progress, pictures)
        with _without_collections():
            await flight.fly(settings.grace_s, stop)
    finally:
        client.close()
    return replace(flight.result(client.model, bytes_per_token), server=identity)


@contextmanager
def _without_collections() -> Iterator[None]:
    """Looking through the objects of thousands of streams takes a tenth of a second, and makes requests late."""
    was_enabled = gc.isenabled()
    gc.disable()
    try:
        yield
    finally:
        if was_enabled:
            gc.enable()


async def _asked(client: CompletionClient, seed: int) -> float:
    found = await client.bytes_per_token(sample(SAMPLE_TOKENS, seed))
    return DEFAULT_BYTES_PER_TOKEN if math.isnan(found) else found
