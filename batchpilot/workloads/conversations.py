"""A generator of conversations and agents: people ask, tools answer, and every prompt holds all that was said before.

A conversation begins with a system prompt that others share, and something of its own. Each request of its human is
followed by steps of the agent, whose prompts end in what a tool said. It ends with its last request, or where its
context would pass the model's. Times in ms, lengths in tokens.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from batchpilot.workloads.drawn_images import ImageModel, draw_images
from batchpilot.workloads.images import Images
from batchpilot.workloads.lengths import LogNormal
from batchpilot.workloads.prefixes import Prefixes
from batchpilot.workloads.table import RequestTable
from batchpilot.workloads.turns import LAST, Turns


@dataclass(frozen=True, slots=True)
class Count:
    """How many: none for some, the whole part of a lognormal number for the others.

    Attributes:
        median: of the lognormal, > 0.
        sigma: standard deviation of its logarithm, >= 0.
        most: larger counts are cut to this.
        none: share that has none, 0 to 1.
    """

    median: float
    sigma: float
    most: int
    none: float = 0.0

    def draw(self, n: int, rng: np.random.Generator) -> NDArray[np.int64]:
        """Counts, shape (n,).

        Args:
            n: how many of them.
            rng: source of randomness.
        """
        counts = np.minimum(self.median * np.exp(self.sigma * rng.standard_normal(n)), self.most).astype(np.int64)
        return np.where(rng.random(n) < self.none, 0, counts)


NOBODY_WORKS = Count(1.0, 0.0, 0)
"""No steps: people alone talk."""


@dataclass(frozen=True, slots=True)
class Pause:
    """A time between an answer and the next turn.

    Attributes:
        median_ms: of a lognormal time, >= 0.
        sigma: standard deviation of its logarithm, >= 0.
        longest_ms: longer ones are cut to this.
    """

    median_ms: float
    sigma: float
    longest_ms: float

    def draw(self, n: int, rng: np.random.Generator) -> NDArray[np.float64]:
        """Times in ms, shape (n,).

        Args:
            n: how many of them.
            rng: source of randomness.
        """
        return np.minimum(self.median_ms * np.exp(self.sigma * rng.standard_normal(n)), self.longest_ms)


@dataclass(frozen=True, slots=True)
class Talk:
    """What conversations are like.

    Attributes:
        requests: of the human after the first one.
        steps: of the agent after each request, each behind a tool; `NOBODY_WORKS` for plain chat.
        system_tokens: length of a system prompt, >= 0.
        system_kinds: how many system prompts there are, >= 1; the k-th is used in proportion to 1 / k.
        first: tokens of a conversation's first message, files and history that it begins with.
        message: tokens of each later message.
        tool: tokens of what a tool says.
        output: tokens of an answer.
        think: from an answer to the human's next message.
        work: how long a tool takes.
        most_context: a turn that would pass this ends the conversation before it.
        block_tokens: tokens in a block that has a hash.
    """

    requests: Count
    steps: Count
    system_tokens: int
    system_kinds: int
    first: LogNormal
    message: LogNormal
    tool: LogNormal
    output: LogNormal
    think: Pause
    work: Pause
    most_context: int
    block_tokens: int = 16


def draw_conversations(
    talk: Talk, start_ms: NDArray[np.float64], rng: np.random.Generator, images: ImageModel | None = None
) -> RequestTable:
    """Draw conversations, turn by turn.

    Args:
        talk: what they are like.
        start_ms: when each begins, shape (conversations,).
        rng: source of randomness.
        images: those that a conversation may begin with, behind its system prompt; all its turns repeat them.

    Returns:
        Their turns; arrivals of later ones are as if answers took no time.
    """
    weights = 1.0 / np.arange(1, talk.system_kinds + 1)
    systems = rng.choice(talk.system_kinds, len(start_ms), p=weights / weights.sum())
    n = len(start_ms)
    shown = Images.none(n) if images is None else Images.from_arrays(*draw_images(images, n, rng), talk.system_tokens)
    talks = [_turns(talk, rng, int(tokens)) for tokens in shown.tokens]
    session = np.repeat(np.arange(len(talks)), [len(turns) for turns in talks])
    prompt, output, pause_ms = np.concatenate([np.zeros((0, 3)), *talks]).T
    begun_ms = [start + np.cumsum(turns[:, 2]) for start, turns in zip(start_ms, talks, strict=True)]
    return RequestTable.from_arrays(
        np.concatenate([np.zeros(0), *begun_ms]),
        prompt,
        output,
        prefixes=_prefixes(talk, session, systems, shown, (prompt + output).astype(np.int64)),
        turns=Turns(session, pause_ms),
        images=None if images is None else shown.select(session),
    )


def new_tokens(requests: RequestTable) -> NDArray[np.int64]:
    """Prompt tokens that are not in the turn before, neither in its prompt nor in its answer, shape (n,).

    Args:
        requests: with conversations or without.
    """
    new = requests.prompt_tokens.copy()
    if requests.turns is not None:
        following = requests.turns.following()
        before = np.flatnonzero(following != LAST)
        new[following[before]] -= requests.prompt_tokens[before] + requests.output_tokens[before]
    return np.maximum(new, 1)


def _turns(talk: Talk, rng: np.random.Generator, image_tokens: int) -> NDArray[np.float64]:
    """Prompt, output and the pause before each turn of one conversation, shape (turns, 3)."""
    steps = talk.steps.draw(1 + int(talk.requests.draw(1, rng)[0]), rng)
    n = int((1 + steps).sum())
    asked = np.zeros(n, np.bool_)
    asked[np.cumsum(1 + steps) - (1 + steps)] = True
    new = np.where(asked, _lengths(talk.message, n, rng), _lengths(talk.tool, n, rng))
    new[0] = talk.system_tokens + image_tokens + _lengths(talk.first, 1, rng)[0]
    output = _lengths(talk.output, n, rng)
    pause_ms = np.where(asked, talk.think.draw(n, rng), talk.work.draw(n, rng))
    pause_ms[0] = 0.0
    prompt = np.cumsum(new + output) - output
    fits = int(np.count_nonzero(prompt + output <= talk.most_context))
    return np.column_stack([prompt, output, pause_ms])[:fits]


def _lengths(length: LogNormal, n: int, rng: np.random.Generator) -> NDArray[np.float64]:
    return np.rint(length.quantile(rng.random(n)))


def _prefixes(
    talk: Talk, session: NDArray[np.int64], systems: NDArray[np.int64], shown: Images, tokens: NDArray[np.int64]
) -> Prefixes:
    """Block hashes of turns: the blocks of the system prompt are those of its kind, the others the conversation's.

    Those of images are those of all conversations that show them, in this order, behind the same system prompt.
    """
    blocks = tokens // talk.block_tokens
    starts = np.concatenate([[0], np.cumsum(blocks)])
    turn = np.repeat(np.arange(len(tokens)), blocks)
    place = np.arange(starts[-1]) - starts[turn]
    shared, most = talk.system_tokens // talk.block_tokens, int(blocks.max(initial=0)) + 1
    owner = np.where(place < shared, systems[session[turn]], talk.system_kinds + session[turn])
    if shown.shown.any():
        first = talk.system_kinds + len(systems)
        for run, ends in zip(shown.runs().T, shown.ends.T, strict=True):
            pairs = np.unique(np.stack([systems, run]), axis=1, return_inverse=True)[1].reshape(-1)
            of_image = (place >= shared) & (place < (ends // talk.block_tokens)[session[turn]])
            owner = np.where(of_image, first + pairs[session[turn]], owner)
            shared = np.maximum(shared, (ends // talk.block_tokens)[session[turn]])
            first += int(pairs.max()) + 1
    return Prefixes(owner * most + place, starts, talk.block_tokens)
