"""From block hashes of requests to the numbers by which a scheduler knows its KV blocks."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from batchpilot.workloads.prefixes import Prefixes


@dataclass(frozen=True, slots=True, eq=False)
class Contents:
    """Contents of the KV blocks of some requests, one request after another.

    Attributes:
        block_size: tokens in a KV block.
        first: where each request's begin, shape (n,).
        hashed: how many each has, shape (n,).
        content: a number >= 0 by block, equal where all tokens up to the block's end are, shape (blocks,).
        room: rows that a table by block and by content needs.
    """

    block_size: int
    first: NDArray[np.int64]
    hashed: NDArray[np.int64]
    content: NDArray[np.int64]
    room: int


def numbers_each(prefixes: Prefixes | None, block_size: int) -> int:
    """How many contents have the number of a hash times this, and those behind it, as theirs: those that end in it.

    Args:
        prefixes: block hashes of the requests; None for none.
        block_size: tokens in a KV block.
    """
    return 1 if prefixes is None else -(-prefixes.block_tokens // block_size)


def block_contents(prefixes: Prefixes, tokens: NDArray[np.int64], block_size: int) -> Contents:
    """Which KV blocks are equal.

    A KV block's content follows from the hash of the block that its last token lies in: a hashed block of 512 tokens
    holds 32 KV blocks of 16. Where it reaches beyond the KV block's end, equal KV blocks may pass for different ones.

    Args:
        prefixes: block hashes of the requests.
        tokens: prompt and output of each request, shape (n,); the last token of an output is never computed on.
        block_size: tokens in a KV block.
    """
    hashed = np.minimum(prefixes.blocks() * prefixes.block_tokens, tokens - 1) // block_size
    first = np.cumsum(hashed) - hashed
    owner = np.repeat(np.arange(len(hashed)), hashed)
    block = np.arange(len(owner)) - first[owner]
    place = ((block + 1) * block_size - 1) // prefixes.block_tokens
    within = block - place * prefixes.block_tokens // block_size
    parts = numbers_each(prefixes, block_size)
    content = prefixes.numbers[prefixes.starts[owner] + place] * parts + within
    return Contents(block_size, first, hashed, content, max(len(content), prefixes.different * parts))
