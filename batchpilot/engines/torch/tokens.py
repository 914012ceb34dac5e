"""Token ids of every request: its prompt, given or drawn, and what was generated after it."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
from numpy.typing import ArrayLike, NDArray

from batchpilot.workloads.table import RequestTable

_PROMPT_STREAM = 21


class TokenStore:
    """Prompt and output of every request, one after the other in one array.

    Args:
        requests: how long prompts and outputs are.
        vocabulary: number of token ids; prompts are drawn evenly from them.
        seed: of the drawn prompts.
        prompts: the prompts themselves, one a request.

    Raises:
        ValueError: the prompts are not those of the requests.
    """

    def __init__(
        self, requests: RequestTable, vocabulary: int, seed: int = 0, prompts: Sequence[ArrayLike] | None = None
    ) -> None:
        self._prompt = requests.prompt_tokens
        ends = np.cumsum(requests.prompt_tokens + requests.output_tokens)
        self._start = ends - requests.prompt_tokens - requests.output_tokens
        size = int(ends[-1]) if len(requests) else 0
        rng = np.random.default_rng([seed, _PROMPT_STREAM])
        self._ids = rng.integers(0, vocabulary, size)
        if prompts is not None:
            self._write_prompts([np.asarray(prompt, np.int64) for prompt in prompts], vocabulary)

    def prompt(self, r: int) -> NDArray[np.int64]:
        """The prompt of a request, shape (prompt_tokens,).

        Args:
            r: request id.
        """
        return self._ids[self._start[r] : self._start[r] + self._prompt[r]].copy()

    def generated(self, r: int, count: int) -> NDArray[np.int64]:
        """The first tokens generated for a request, shape (count,).

        Args:
            r: request id.
            count: how many it has.
        """
        first = self._start[r] + self._prompt[r]
        return self._ids[first : first + count].copy()

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

    def _write_prompts(self, prompts: list[NDArray[np.int64]], vocabulary: int) -> None:
        if len(prompts) != len(self._prompt):
            raise ValueError(f"{len(prompts)} prompts for {len(self._prompt)} requests; give one for each")
        for r, prompt in enumerate(prompts):
            if len(prompt) != self._prompt[r]:
                raise ValueError(f"prompt {r} has {len(prompt)} tokens; the request says {self._prompt[r]}")
            if prompt.min() < 0 or prompt.max() >= vocabulary:
                raise ValueError(f"prompt {r} has a token id outside 0 to {vocabulary - 1}")
            self._ids[self._start[r] : self._start[r] + len(prompt)] = prompt
