"""A model of what prompts have in common: levels of text that requests share, one behind another. Lengths in tokens.

The first level may be a few system prompts, the second documents that questions are asked about, further ones the turns
in which conversations branch. What a request has at one level goes on from what it has before: equal documents behind
different system prompts have nothing in common.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from batchpilot.workloads.prefixes import Prefixes


@dataclass(frozen=True, slots=True)
class SharedLevel:
    """Texts of which a request has one.

    Attributes:
        tokens: length of each, >= 1.
        kinds: how many there are behind each text of the level before, >= 1.
        zipf: the k-th most popular is asked for in proportion to 1 / k ** zipf, >= 0.
        share: share of the requests that got so far and have one, 0 to 1; the others go on alone.
    """

    tokens: int
    kinds: int = 1
    zipf: float = 1.0
    share: float = 1.0


def draw_prefixes(
    prompt_tokens: NDArray[np.int64], levels: Sequence[SharedLevel], block_tokens: int, rng: np.random.Generator
) -> Prefixes:
    """Draw what each prompt begins with; a prompt that is shorter than its texts ends within them.

    Args:
        prompt_tokens: prompt lengths, shape (n,).
        levels: in order.
        block_tokens: tokens in a hashed block, >= 1.
        rng: source of randomness.

    Returns:
        Hashes of the whole blocks that lie within shared texts.
    """
    n = len(prompt_tokens)
    paths = np.zeros((n, 0), np.int64)
    ends = np.zeros((n, 0), np.int64)
    alone = np.zeros(n, np.bool_)
    for level in levels:
        weights = 1.0 / np.arange(1, level.kinds + 1) ** level.zipf
        kind = rng.choice(level.kinds, size=n, p=weights / weights.sum())
        alone = alone | (rng.random(n) >= level.share)
        paths = np.column_stack([paths, np.where(alone, -1, kind)])
        before = ends[:, -1] if ends.shape[1] else np.zeros(n, np.int64)
        ends = np.column_stack([ends, before + np.where(alone, 0, level.tokens)])
    shared = np.minimum(ends[:, -1], prompt_tokens) if levels else np.zeros(n, np.int64)
    numbers: dict[tuple[int, ...], int] = {}
    rows = []
    for r in range(n):
        # A block is known by all texts up to the one that it ends in, and by its place.
        block_ends = np.arange(1, shared[r] // block_tokens + 1) * block_tokens
        depths = np.searchsorted(ends[r], block_ends) + 1
        path = paths[r].tolist()
        keys = ((*path[:depth], end) for depth, end in zip(depths.tolist(), block_ends.tolist(), strict=True))
        rows.append([numbers.setdefault(key, len(numbers)) for key in keys])
    return Prefixes.from_lists(rows, block_tokens)
