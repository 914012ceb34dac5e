"""What drafts are and who makes them."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Protocol

import numpy as np
import torch
from numpy.typing import NDArray

from batchpilot.engines.torch.cache import BlockTables
from batchpilot.engines.torch.tokens import TokenStore


@dataclass(slots=True)
class Drafting:
    """Requests for which drafts are wanted, arrays of shape (n,).

    Attributes:
        requests: their ids.
        most: tokens that a draft may have, >= 1.
        known: tokens of prompt and output so far; the last one is not computed yet.
        place: place in the output of the first drafted token: how many tokens the request has said.
        draws: how its tokens are chosen, records of `DRAW`.
        tokens: where all tokens stand.
        tables: which KV blocks each request holds, room for the draft included.
    """

    requests: NDArray[np.int64]
    most: NDArray[np.int64]
    known: NDArray[np.int64]
    place: NDArray[np.int64]
    draws: NDArray[np.void]
    tokens: TokenStore
    tables: BlockTables


@dataclass(slots=True)
class Drafts:
    """Drafted tokens of n requests.

    Attributes:
        counts: how many each, >= 0, shape (n,).
        ids: one request after the other, shape (counts.sum(),).
        probabilities: the distribution that each was drawn from, shape (counts.sum(), vocabulary); None where there was
            no choice, as in a lookup.
    """

    counts: NDArray[np.int64]
    ids: NDArray[np.int64]
    probabilities: torch.Tensor | None = None


class Drafter(Protocol):
    """Whoever guesses what comes next. A wrong guess costs time; what is said never depends on it but by chance."""

    def follow(self, requests: NDArray[np.int64], computed: NDArray[np.int64], generated: NDArray[np.int64]) -> None:
        """Hear, before every step, how far its requests are.

        Args:
            requests: ids of those in the step, shape (n,).
            computed: tokens in the KV cache of each.
            generated: tokens that each has said.
        """

    def draft(self, asked: Drafting) -> Drafts:
        """Guess.

        Args:
            asked: for whom.
        """
