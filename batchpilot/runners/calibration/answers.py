"""What the times of a server's answers say of its steps, and of the way to them. Times in ms, lengths in tokens."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import NamedTuple

import numpy as np

from batchpilot.latency.fitting.observations import Observations
from batchpilot.serving.load.answers import Answered

_SUMMED = 4
"""Gaps between tokens whose sum is held against single ones."""


@dataclass(frozen=True, slots=True, eq=False)
class Asking:
    """What a server's answers tell.

    Attributes:
        steps: what its steps took: of streams as averages over some fifty of them, of prompts each.
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
