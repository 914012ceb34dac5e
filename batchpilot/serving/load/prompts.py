"""Prompts of wanted lengths for a server whose tokenizer is not known: words, as many bytes as the tokens take."""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

from batchpilot.workloads.prefixes import Prefixes
from batchpilot.workloads.turns import Turns

_WORDS = (
    "the of and to in is that for it as was with be by on not he but are this have from had which one you were her all "
    "she there would"
)
WORDS = tuple(_WORDS.split())
DEFAULT_BYTES_PER_TOKEN = 4.0

_HEAD_WORDS = 8
_LEAST_BODY_BYTES = 1 << 16


class Prompts:
    """Texts, each made when it is asked for, so that a long trace needs no memory for all.

    A text begins with words of its own, so that no server answers from a cache of prefixes, and goes on somewhere in
    one long text that all share. The prompt of a conversation's turn begins with the whole of the turn before. Where
    block hashes say what prompts begin with, each hash has its own text, and only what follows is the request's.

    Args:
        tokens: wanted lengths, >= 1, shape (n,).
        bytes_per_token: of the server's tokenizer on this kind of text, > 0.
        seed: of the words.
        turns: conversations of the requests; None for none.
        prefixes: what prompts have in common, hashes behind the prompt's end left out; None for nothing.

    Attributes:
        bytes_per_token: as given.
    """

    def __init__(
        self,
        tokens: NDArray[np.int64],
        bytes_per_token: float,
        seed: int = 0,
        turns: Turns | None = None,
        prefixes: Prefixes | None = None,
    ) -> None:
        self.bytes_per_token = bytes_per_token
        rng = np.random.default_rng(seed)
        self._bytes = np.maximum(np.round(tokens * bytes_per_token), 1).astype(np.int64)
        longest = int(self._bytes.max(initial=1))
        self._shared = _text(rng.integers(len(WORDS), size=(2 * longest + _LEAST_BODY_BYTES) // 2))
        self._heads = rng.integers(len(WORDS), size=(len(tokens), _HEAD_WORDS))
        self._starts = rng.integers(len(self._shared) - longest, size=len(tokens))
        if turns is not None:
            first = turns.first_of()
            self._heads, self._starts = self._heads[first], self._starts[first]
        self._prefixes = prefixes
        if prefixes is not None:
            self._blocks = np.minimum(prefixes.blocks(), tokens // prefixes.block_tokens)
            self._block_heads = rng.integers(len(WORDS), size=(prefixes.different, _HEAD_WORDS))
            longest_block = int(np.ceil(prefixes.block_tokens * bytes_per_token))
            self._block_starts = rng.integers(max(len(self._shared) - longest_block, 1), size=prefixes.different)

    def __len__(self) -> int:
        return len(self._bytes)

    def __getitem__(self, row: int) -> str:
        length = int(self._bytes[row])
        common = self._common(row)
        return (common + self._part(self._heads[row], int(self._starts[row]), max(length - len(common), 0)))[:length]

    def _common(self, row: int) -> str:
        """What a request's block hashes stand for, its whole blocks alone."""
        prefixes = self._prefixes
        if prefixes is None:
            return ""
        first, count = int(prefixes.starts[row]), int(self._blocks[row])
        ends = np.round(np.arange(count + 1) * prefixes.block_tokens * self.bytes_per_token).astype(np.int64)
        numbers = prefixes.numbers[first : first + count]
        return "".join(
            self._part(self._block_heads[number], int(self._block_starts[number]), int(length))
            for number, length in zip(numbers, np.diff(ends), strict=True)
        )

    def _part(self, head: NDArray[np.int64], start: int, length: int) -> str:
        return f"{_text(head)} {self._shared[start : start + length]}"[:length]


def sample(tokens: int, seed: int = 0) -> str:
    """A text of the kind that `Prompts` gives, to measure a tokenizer by.

    Args:
        tokens: about how many.
        seed: of the words.
    """
    return Prompts(np.array([tokens]), DEFAULT_BYTES_PER_TOKEN, seed)[0]


def _text(words: NDArray[np.int64]) -> str:
    return " ".join(WORDS[word] for word in words.tolist())
