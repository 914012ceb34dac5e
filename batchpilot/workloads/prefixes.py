"""What requests have in common: hashes of the blocks that their tokens begin with. Lengths in tokens."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from functools import cached_property

import numpy as np
from numpy.typing import ArrayLike, NDArray


@dataclass(frozen=True, eq=False)
class Prefixes:
    """Block hashes of some requests, one request after another. Build one with `from_lists`.

    A hash stands for the tokens of its block and for all before them, as Mooncake's `hash_ids` and the block hashes of
    engines do: two requests whose k-th hashes are equal begin with the same k blocks. Only whole blocks have one; the
    tokens behind a request's last hash are its own. Hashes may go beyond the prompt into the answer, for a next turn
    that repeats it.

    Attributes:
        hashes: shape (blocks,), int64.
        starts: where each request's begin, and where the last one's end, shape (n + 1,), int64.
        block_tokens: tokens in a block, >= 1; an engine's blocks may be smaller or larger.
    """

    hashes: NDArray[np.int64]
    starts: NDArray[np.int64]
    block_tokens: int

    @classmethod
    def from_lists(cls, hashes: Sequence[ArrayLike], block_tokens: int) -> Prefixes:
        """Build from one list of hashes a request.

        Args:
            hashes: whole numbers, each of shape (any,).
            block_tokens: tokens in a block.

        Raises:
            ValueError: `block_tokens` is below 1, or a hash follows two different ones.
        """
        rows = [np.asarray(row, np.int64).reshape(-1) for row in hashes]
        starts = np.concatenate([[0], np.cumsum([len(row) for row in rows])]).astype(np.int64)
        return cls(np.concatenate([np.zeros(0, np.int64), *rows]), starts, block_tokens)

    def __post_init__(self) -> None:
        if self.block_tokens < 1:
            raise ValueError(f"block_tokens is {self.block_tokens}; a hashed block has at least 1 token")
        # One number for whatever a hash follows, -1 for the first of a request.
        before = np.concatenate([[-1], self.numbers[:-1]]) if len(self.hashes) else self.numbers
        before[self.starts[:-1][np.diff(self.starts) > 0]] = -1
        follows = np.empty(self.different, np.int64)
        follows[self.numbers] = before
        wrong = np.flatnonzero(follows[self.numbers] != before)
        if len(wrong):
            raise ValueError(
                f"block hash {self.hashes[wrong[0]]} follows two different ones; a hash must stand for its block and "
                "all before it, so hash each block together with the hash before it"
            )

    def __len__(self) -> int:
        return len(self.starts) - 1

    @cached_property
    def numbers(self) -> NDArray[np.int64]:
        """The hashes renumbered 0, 1, 2 ..., shape (blocks,)."""
        return np.unique(self.hashes, return_inverse=True)[1].astype(np.int64).reshape(-1)

    @property
    def different(self) -> int:
        """How many different hashes there are."""
        return int(self.numbers.max(initial=-1)) + 1

    def blocks(self) -> NDArray[np.int64]:
        """Hashed blocks of each request, shape (n,)."""
        return np.diff(self.starts)

    def select(self, rows: NDArray[np.intp] | NDArray[np.bool_] | slice) -> Prefixes:
        """Those of some requests, in order.

        Args:
            rows: an index array, a mask of shape (n,) or a slice.
        """
        lengths = self.blocks()[rows]
        starts = np.concatenate([[0], np.cumsum(lengths)]).astype(np.int64)
        places = np.arange(starts[-1]) + np.repeat(self.starts[:-1][rows] - starts[:-1], lengths)
        return Prefixes(self.hashes[places], starts, self.block_tokens)

    def apart(self, group: NDArray[np.int64]) -> Prefixes:
        """The same with nothing in common between groups of requests.

        Args:
            group: a number for each request, >= 0, shape (n,).
        """
        return Prefixes(self.numbers + self.different * np.repeat(group, self.blocks()), self.starts, self.block_tokens)


def put_together(parts: Sequence[Prefixes | None], lengths: Sequence[int], *, of_one: bool = False) -> Prefixes | None:
    """Those of several tables put end to end.

    Args:
        parts: of each table; None for one without.
        lengths: requests of each table.
        of_one: whether they are parts of one, in which equal hashes are equal; else tables have nothing in common.

    Returns:
        None where no table has any.

    Raises:
        ValueError: the tables' blocks differ in size.
    """
    sizes = {part.block_tokens for part in parts if part is not None}
    if not sizes:
        return None
    if len(sizes) > 1:
        raise ValueError(f"block hashes of {sorted(sizes)} tokens cannot be put together; hash blocks of one size")
    block_tokens = sizes.pop()
    whole = [part or Prefixes.from_lists([[]] * n, block_tokens) for part, n in zip(parts, lengths, strict=True)]
    numbers, starts, first, end = [], [np.zeros(1, np.int64)], 0, 0
    for part in whole:
        numbers.append(part.hashes if of_one else part.numbers + first)
        starts.append(part.starts[1:] + end)
        first += part.different
        end += len(part.hashes)
    return Prefixes(np.concatenate(numbers), np.concatenate(starts), block_tokens)
