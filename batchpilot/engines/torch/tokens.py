"""Token ids of every request: its prompt, given or drawn, and what was generated after it."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
from numpy.typing import ArrayLike, NDArray

from batchpilot.workloads.prefixes import Prefixes
from batchpilot.workloads.table import RequestTable

_PROMPT_STREAM = 21
_BLOCK_STREAM = 22


class TokenStore:
    """Prompt and output of every request, in one array.

    Args:
        ids: token ids; written where requests say more.
        start: where each request begins, shape (requests,).
        prompt_tokens: how long each prompt is, shape (requests,); read anew at every use.
    """

    def __init__(self, ids: NDArray[np.int64], start: NDArray[np.int64], prompt_tokens: NDArray[np.int64]) -> None:
        self._ids = ids
        self._start = start
        self._prompt = prompt_tokens

    @classmethod
    def of_rows(cls, prompt_tokens: NDArray[np.int64], longest: int) -> TokenStore:
        """Rows of equal room, which one request after another uses.

        Args:
            prompt_tokens: how long the prompt in each row is, shape (rows,).
            longest: tokens of the longest request, output included.
        """
        # Memory that is never written is never there: long rows cost what their longest request does.
        return cls(
            np.empty(len(prompt_tokens) * longest, np.int64), np.arange(len(prompt_tokens)) * longest, prompt_tokens
        )

    @classmethod
    def of_requests(
        cls, requests: RequestTable, vocabulary: int, seed: int = 0, prompts: Sequence[ArrayLike] | None = None
    ) -> TokenStore:
        """The requests of a table, one after the other.

        Args:
            requests: how long prompts and outputs are.
            vocabulary: number of token ids; prompts are drawn evenly from them.
            seed: of the drawn prompts, which begin alike where the requests tell it.
            prompts: the prompts themselves, one a request.

        Raises:
            ValueError: the prompts are not those of the requests.
        """
        lengths = requests.prompt_tokens + requests.output_tokens
        rng = np.random.default_rng([seed, _PROMPT_STREAM])
        ids = rng.integers(0, vocabulary, int(lengths.sum()))
        store = cls(ids, np.cumsum(lengths) - lengths, requests.prompt_tokens)
        if prompts is None and requests.prefixes is not None:
            store._draw_alike(requests.prefixes, vocabulary, seed)
        if prompts is not None:
            if len(prompts) != len(requests):
                raise ValueError(f"{len(prompts)} prompts for {len(requests)} requests; give one for each")
            for r, prompt in enumerate(prompts):
                store.write_prompt(r, token_ids(prompt, vocabulary, f"prompt {r}"))
        return store

    def _draw_alike(self, prefixes: Prefixes, vocabulary: int, seed: int) -> None:
        """Draw the tokens of equal blocks alike."""
        size = prefixes.block_tokens
        blocks = np.random.default_rng([seed, _BLOCK_STREAM]).integers(0, vocabulary, (prefixes.different, size))
        for r in range(len(prefixes)):
            numbers = prefixes.numbers[prefixes.starts[r] : prefixes.starts[r + 1]]
            known = blocks[numbers].ravel()[: self._prompt[r]]
            self._ids[self._start[r] : self._start[r] + len(known)] = known

    def prompt(self, r: int) -> NDArray[np.int64]:
        """The prompt of a request, shape (prompt_tokens,).

        Args:
            r: request id.
        """
        return self._ids[self._start[r] : self._start[r] + self._prompt[r]].copy()

    def write_prompt(self, r: int, prompt: NDArray[np.int64]) -> None:
        """Write the prompt of a request.

        Args:
            r: request id.
            prompt: token ids, shape (prompt_tokens,).

        Raises:
            ValueError: it is not as long as the request says.
        """
        if len(prompt) != self._prompt[r]:
            raise ValueError(f"prompt {r} has {len(prompt)} tokens; the request says {self._prompt[r]}")
        self._ids[self._start[r] : self._start[r] + len(prompt)] = prompt

    def generated(self, r: int, count: int) -> NDArray[np.int64]:
        """The first tokens generated for a request, shape (count,).

        Args:
            r: request id.
            count: how many it has.
        """
        first = self._start[r] + self._prompt[r]
        return self._ids[first : first + count].copy()

    def text(self, r: int, count: int) -> NDArray[np.int64]:
        """The first tokens of prompt and output, shape (count,); a view, not to be kept.

        Args:
            r: request id.
            count: how many.
        """
        return self._ids[self._start[r] : self._start[r] + count]

    def read(self, request: NDArray[np.int64], place: NDArray[np.int64]) -> NDArray[np.int64]:
        """Token ids by request and place, prompt and output counted through.

        Args:
            request: request ids, shape (n,).
            place: places, shape (n,).
        """
        ids: NDArray[np.int64] = self._ids[self._start[request] + place]
        return ids

    def append(self, request: NDArray[np.int64], place: NDArray[np.int64], ids: NDArray[np.int64]) -> None:
        """Write generated tokens.

        Args:
            request: request ids, shape (n,).
            place: place in the output of each, shape (n,).
            ids: token ids, shape (n,).
        """
        self._ids[self._start[request] + self._prompt[request] + place] = ids


def token_ids(prompt: ArrayLike, vocabulary: int, name: str) -> NDArray[np.int64]:
    """A prompt as an array, checked.

    Args:
        prompt: token ids, shape (n,), at least one.
        vocabulary: number of token ids.
        name: of the prompt, for the message.

    Raises:
        ValueError: it is empty, not a list of whole numbers, or has an id outside the vocabulary.
    """
    given = np.asarray(prompt)
    if given.ndim != 1 or len(given) == 0 or given.dtype.kind not in "iu":
        raise ValueError(f"{name} has shape {given.shape} and type {given.dtype}; it must be at least one whole number")
    if given.min() < 0 or given.max() >= vocabulary:
        raise ValueError(f"{name} has a token id outside 0 to {vocabulary - 1}")
    return given.astype(np.int64)
