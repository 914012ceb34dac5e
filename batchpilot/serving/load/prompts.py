"""Prompts of wanted lengths for a server whose tokenizer is not known: words, as many bytes as the tokens take."""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

from batchpilot.core.image_sizes import image_tokens
from batchpilot.workloads.images import Images
from batchpilot.workloads.prefixes import Prefixes
from batchpilot.workloads.turns import LAST, Turns

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
    block hashes say what prompts begin with, each hash has its own text, and only what follows is the request's. Of a
    block that the prompt ends in it has the beginning, so that who goes on from there, as a conversation does, repeats
    the whole prompt. A block's text is as long as what no image takes of it.

    Args:
        tokens: wanted lengths of text, >= 1, shape (n,).
        bytes_per_token: of the server's tokenizer on this kind of text, > 0.
        seed: of the words.
        turns: conversations of the requests; None for none.
        prefixes: what prompts have in common, hashes behind the prompt's end left out; None for nothing.
        images: among the prompts, beside the text; None for none.

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
        images: Images | None = None,
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
        self._prefixes, self._images = prefixes, images
        self._tokens = tokens if images is None else tokens + images.tokens
        self._following = np.full(len(tokens), LAST) if turns is None else turns.following()
        if prefixes is not None:
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
        """What a request's block hashes stand for, as far as its prompt goes."""
        prefixes = self._prefixes
        if prefixes is None:
            return ""
        numbers = self._numbers(prefixes, row)
        count = len(numbers)
        places = np.minimum(np.arange(count + 1) * prefixes.block_tokens, self._tokens[row])
        ends = np.round(self._text_before(row, places) * self.bytes_per_token).astype(np.int64)
        return "".join(
            self._part(self._block_heads[number], int(self._block_starts[number]), int(length))
            for number, length in zip(numbers, np.diff(ends), strict=True)
        )

    def _numbers(self, prefixes: Prefixes, row: int) -> NDArray[np.int64]:
        """The numbers of a prompt's block hashes; what its own lack of them at its end the turns after it have."""
        needed = -(-int(self._tokens[row]) // prefixes.block_tokens)
        found, later = self._own(prefixes, row), int(self._following[row])
        while len(found) < needed and later != LAST:
            theirs = self._own(prefixes, later)
            if len(theirs) > len(found) and np.array_equal(theirs[: len(found)], found):
                found = theirs
            later = int(self._following[later])
        return found[:needed]

    @staticmethod
    def _own(prefixes: Prefixes, row: int) -> NDArray[np.int64]:
        return prefixes.numbers[prefixes.starts[row] : prefixes.starts[row + 1]]

    def _text_before(self, row: int, places: NDArray[np.int64]) -> NDArray[np.int64]:
        """Tokens of text among the first ones of a prompt, so many as each of some places says."""
        if self._images is None:
            return places
        first, sides = self._images.before_tokens[row], self._images.side_px[row]
        shown = np.clip(places[:, None] - first, 0, image_tokens(sides)).sum(axis=1)
        return np.asarray(places - shown)

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
