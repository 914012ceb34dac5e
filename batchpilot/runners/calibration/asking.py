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
from dataclasses import dataclass
from itertools import count
from typing import NamedTuple

import numpy as np

from batchpilot.core.slo import SLO
from batchpilot.latency.fitting.observations import Observations
from batchpilot.serving.answers import SERVED
from batchpilot.serving.load.answers import Answered
from batchpilot.serving.load.client import CompletionClient, Dialect
from batchpilot.serving.load.flight import Asked
from batchpilot.serving.load.http import Address
from batchpilot.serving.load.prompts import Prompts, sample

OUTPUT_TOKENS = 48
"""Of each stream: many beside the steps that the last of a group waits for its first token."""

SHORTEST_PROMPT = 8
LARGEST_BATCH, LARGEST_PROMPT = 32, 1024
_SAMPLE_TOKENS = 200
_SUMMED = 4
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


@dataclass(frozen=True, slots=True, eq=False)
class Asking:
    """What a server's answers tell.

    Attributes:
        steps: what its steps took, as averages over some fifty of them.
        front_ms: what a lone request's TTFT holds beside its step: the way to the engine and back.
        noise: standard deviation of the logarithm of one step's time beside its kind's; None where answers came whole.
        groups: groups that were answered whole.
        refused: groups of which something was not served.
        model: as the server names it.
    """

    steps: Observations
    front_ms: float
    noise: float | None
    groups: int
    refused: int
    model: str


class Timed(NamedTuple):
    """A request and its answer; `sent_ms` on its clock. `amid`: it came while the others of its group spoke."""

    sent_ms: float
    prompt_tokens: int
    answer: Answered
    amid: bool = False


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


def read_answers(told: Sequence[Sequence[Timed]], refused: int, model: str) -> Asking:
    """Steps and the way to the engine, from answers.

    Of a group that decodes together the last to begin is read: while it speaks, the others do, but for the steps that
    they were ahead. How many they were, and their context, is the mean over its time.

    Args:
        told: groups, every request served.
        refused: groups that were not.
        model: as the server names it.
    """
    mixed = [row for group in told if group[-1].amid and (row := _mixed(group)) is not None]
    told = [group for group in told if not group[-1].amid]
    decodes = [_decoding(group) for group in told if group[0].answer.output_tokens > 1]
    lone = [row[3] for row in decodes if row[0] <= 1]
    prompts = [
        (one.prompt_tokens, one.answer.first_ms - one.sent_ms)
        for (one, *others) in told
        if not others and one.answer.output_tokens == 1
    ]
    front_ms = max(_at_one_token(prompts) - float(np.median(lone)), 0.0) if prompts and lone else 0.0
    rows = decodes + [(1.0, float(tokens), 0.0, ttft - front_ms) for tokens, ttft in prompts if ttft > front_ms]
    rows += mixed
    sizes, tokens, contexts, times = np.array(rows).T
    steps = Observations(np.round(sizes), np.round(tokens), np.round(contexts), times)
    return Asking(steps, front_ms, _noise(told), len(told) + len(mixed), refused, model)


def _mixed(group: Sequence[Timed]) -> tuple[float, float, float, float] | None:
    """B, S, C and T of the step that computed a prompt amid streams; None where too few streams tell.

    That step ends for everybody at once: T is each stream's wait for the token that comes with the prompt's first.
    """
    *streams, prompt = group
    waits, contexts = [], []
    for one in streams:
        heard = np.array(one.answer.heard_ms)
        place = int(np.abs(heard - prompt.answer.first_ms).argmin()) if len(heard) > 1 else 0
        if place and one.answer.end_ms > prompt.answer.first_ms:
            waits.append(float(heard[place] - heard[place - 1]))
            contexts.append(one.prompt_tokens + place)
    if 2 * len(waits) <= len(streams):
        return None
    size = len(waits)
    return size + 1.0, float(prompt.prompt_tokens + size), float(sum(contexts)), float(np.median(waits))


def _noise(told: Sequence[Sequence[Timed]]) -> float | None:
    """How single steps scatter, from the times between tokens of the last to begin of each group, while all speak.

    What a token's way to the client adds is taken back from the next gap: the sum of several gaps scatters by as many
    steps, but by no more of the way than a single gap does. That contexts grow is no scatter.
    """
    lone, summed = [], []
    for group in told:
        heard = np.array(max(group, key=lambda one: one.answer.first_ms).answer.heard_ms)
        gaps = np.diff(heard[heard <= min(one.answer.end_ms for one in group)])
        if len(gaps) < 2 * _SUMMED or gaps.mean() <= 0:
            continue
        places = np.arange(len(gaps))
        gaps = gaps / np.polyval(np.polyfit(places, gaps, 1), places).clip(min=1e-9)
        whole = len(gaps) // _SUMMED * _SUMMED
        lone.append(gaps.var(ddof=1))
        summed.append(gaps[:whole].reshape(-1, _SUMMED).sum(1).var(ddof=1))
    if not lone:
        return None
    step = max(float(np.mean(summed)) - float(np.mean(lone)), 0.0) / (_SUMMED - 1)
    return math.sqrt(math.log1p(step))


def _at_one_token(prompts: Sequence[tuple[int, float]]) -> float:
    """TTFT of a prompt of one token, from a line through the short ones: what is computed of them counts, too."""
    tokens, ttft_ms = np.array(prompts, float).T
    short = tokens <= 4 * tokens.min()
    if len(np.unique(tokens[short])) < 2:
        return float(np.median(ttft_ms[short]))
    slope, intercept = np.polyfit(tokens[short], ttft_ms[short], 1)
    return float(intercept + max(slope, 0.0))


def _decoding(group: Sequence[Timed]) -> tuple[float, float, float, float]:
    """B, S, C and T of the steps in which the last to begin of a group spoke."""
    last = max(group, key=lambda one: one.answer.first_ms)
    first_ms, end_ms = last.answer.first_ms, last.answer.end_ms
    whole = end_ms - first_ms
    size = context = 0.0
    for one in group:
        begins, ends = max(one.answer.first_ms, first_ms), min(one.answer.end_ms, end_ms)
        share = max(ends - begins, 0.0) / whole if whole > 0 else 0.0
        spoken = max(one.answer.end_ms - one.answer.first_ms, 1e-9)
        middle = ((begins + ends) / 2 - one.answer.first_ms) / spoken * one.answer.output_tokens
        size += share
        context += share * (one.prompt_tokens + middle)
    return size, size, context, whole / (last.answer.output_tokens - 1)


def _now_ms() -> float:
    return 1000.0 * time.perf_counter()
