"""Measures a running server from outside: a designed set of requests whose times tell what its steps cost.

Streams of equal requests that decode together tell a step's time for their number and context; lone prompts tell what
prompt tokens cost, and the shortest of them what lies before the engine; a prompt that comes while streams decode tells
what one step of both takes. Times in ms, lengths in tokens.
"""

from __future__ import annotations

import asyncio
import math
import time
from collections.abc import Callable, Sequence
from itertools import count
from typing import NamedTuple

import numpy as np

from batchpilot.core.slo import SLO
from batchpilot.runners.calibration.answers import Asking, Timed, read_answers
from batchpilot.serving.load.client import CompletionClient, Dialect
from batchpilot.serving.load.flight import Asked
from batchpilot.serving.load.http import Address
from batchpilot.serving.load.prompts import Prompts, sample
from batchpilot.serving.outcomes import SERVED

OUTPUT_TOKENS = 48
"""Of each stream: many beside the steps that the last of a group waits for its first token."""

SHORTEST_PROMPT = 8
LARGEST_BATCH, LARGEST_PROMPT = 32, 1024
_SAMPLE_TOKENS = 200
_PATIENT = SLO(math.inf, math.inf)


class Group(NamedTuple):
    """Equal requests that are sent together.

    Attributes:
        requests: how many; one with a single output token is a lone prompt.
        prompt_tokens: of each.
        output_tokens: of each.
        amid_tokens: of a prompt that comes when all of them speak, 0 for none.
    """

    requests: int
    prompt_tokens: int
    output_tokens: int
    amid_tokens: int = 0


def design_groups(largest_batch: int, largest_prompt: int) -> list[Group]:
    """The groups of one round: batch sizes and prompts by doublings, contexts short and long, prompts amid streams.

    Args:
        largest_batch: most requests at a time, >= 1.
        largest_prompt: longest prompt, >= `SHORTEST_PROMPT`; one that the server computes in a single step.

    Raises:
        ValueError: an argument is below its bound.
    """
    for name, value, least in (("batch", largest_batch, 1), ("prompt", largest_prompt, SHORTEST_PROMPT)):
        if value < least:
            raise ValueError(f"the largest {name} is {value}; it must be >= {least}")
    batches = [2**k for k in range(int(math.log2(largest_batch)) + 1)]
    prompts = [SHORTEST_PROMPT * 2**k for k in range(int(math.log2(largest_prompt / SHORTEST_PROMPT)) + 1)]
    contexts = sorted({prompts[0], prompts[-1] // 4 or 1, prompts[-1]})
    return [
        *(Group(size, context, OUTPUT_TOKENS) for size in batches for context in contexts),
        *(Group(1, prompt, 1) for prompt in prompts),
        *(Group(1, SHORTEST_PROMPT, 1) for _ in range(3)),
        *(
            Group(size, SHORTEST_PROMPT, OUTPUT_TOKENS, prompt)
            for size in sorted({batches[len(batches) // 2], batches[-1]})
            for prompt in sorted({prompts[len(prompts) // 2], prompts[-1]})
        ),
    ]


def ask_server(
    url: str,
    *,
    model: str | None = None,
    api_key: str | None = None,
    chat: bool = False,
    largest_batch: int = LARGEST_BATCH,
    largest_prompt: int = LARGEST_PROMPT,
    minutes: float = 3.0,
    seed: int = 0,
    show: Callable[[str], None] = lambda text: None,
) -> Asking:
    """Send rounds of groups until the time is up, at least one round.

    Args:
        url: base address of an OpenAI-compatible server that serves nobody else meanwhile.
        model: what the file shall name; asked is the model of that name, else the first that the server lists.
        api_key: bearer token.
        chat: whether prompts are sent as conversations.
        largest_batch: most requests at a time.
        largest_prompt: longest prompt.
        minutes: no further round begins after so long.
        seed: of texts and order.
        show: hears what goes on.

    Raises:
        ValueError: no server answers there, or it served none of the groups.
    """
    design = design_groups(largest_batch, largest_prompt)
    asked = _ask(Address.parse(url), design, model, api_key, Dialect(chat), minutes, seed, show)
    return asyncio.run(asked)


async def _ask(
    address: Address,
    design: Sequence[Group],
    model: str | None,
    api_key: str | None,
    dialect: Dialect,
    minutes: float,
    seed: int,
    show: Callable[[str], None],
) -> Asking:
    client = CompletionClient(address, _now_ms, api_key=api_key, dialect=dialect, keep_times=True)
    rng = np.random.default_rng(seed)
    told: list[list[Timed]] = []
    refused, why = 0, ""
    try:
        await client.find_model(model)
        served = str(client.listed.get("id", client.model))
        if served != client.model:
            show(f"{address} lists no {client.model!r}: {served!r} is asked, and the file names {client.model!r}")
            client.model = served
        bytes_per_token = await client.bytes_per_token(sample(_SAMPLE_TOKENS, seed))
        ends = time.monotonic() + 60.0 * minutes
        for round_ in count(1):
            order = rng.permutation(len(design))
            for done, place in enumerate(order, 1):
                if round_ > 1 and time.monotonic() > ends:
                    break
                group = design[place]
                also = f", then {group.amid_tokens} amid them" if group.amid_tokens else ""
                what = f"{group.requests} x {group.prompt_tokens} tokens{also}"
                show(f"round {round_}, group {done} of {len(design)}: {what}")
                answers = await _send(client, group, bytes_per_token, int(rng.integers(2**31)))
                if all(one.answer.reason == SERVED for one in answers):
                    told.append(answers)
                else:
                    refused += 1
                    why = why or next(one.answer.detail for one in answers if one.answer.reason != SERVED)
            if not told or time.monotonic() > ends:
                break
    finally:
        client.close()
    if not any(len(group) == 1 and group[0].answer.output_tokens > 1 for group in told):
        first = f"; the first that was not: {why}" if why else ""
        raise ValueError(
            f"{address} served {len(told)} of {len(told) + refused} groups and no lone stream: nothing to fit{first}"
        )
    return read_answers(told, refused, model or client.model)


async def _send(client: CompletionClient, group: Group, bytes_per_token: float, seed: int) -> list[Timed]:
    size = 4.0 if math.isnan(bytes_per_token) else bytes_per_token
    lengths = [group.prompt_tokens] * group.requests + [group.amid_tokens] * bool(group.amid_tokens)
    texts = Prompts(np.array(lengths), size, seed)
    speaking, silent = asyncio.Event(), group.requests

    def begun() -> None:
        nonlocal silent
        silent -= 1
        if not silent:
            speaking.set()

    async def one(row: int, output_tokens: int, *, amid: bool = False) -> Timed:
        sent_ms = _now_ms()
        answer = await client.complete(Asked(texts[row], output_tokens, _PATIENT), begun)
        return Timed(sent_ms, answer.prompt_tokens or lengths[row], answer, amid)

    streams = asyncio.gather(*(one(row, group.output_tokens) for row in range(group.requests)))
    if not group.amid_tokens:
        return list(await streams)
    streams.add_done_callback(lambda _: speaking.set())  # also where some have failed without a word
    await speaking.wait()
    prompt = await one(group.requests, 1, amid=True)
    return [*await streams, prompt]


def _now_ms() -> float:
    return 1000.0 * time.perf_counter()
