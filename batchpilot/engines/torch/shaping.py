"""What some requests of a step ask beside a token: outputs that obey a grammar, and log probabilities.

Steps of requests that ask for neither never come here.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import NamedTuple, Protocol

import numpy as np
import torch
from numpy.typing import NDArray


class Logprobs(NamedTuple):
    """Log probabilities of a token under the model's own distribution, before temperature, top-p and grammar.

    Attributes:
        chosen: the token's.
        likeliest: ids of the likeliest tokens and their log probabilities, in order.
    """

    chosen: float
    likeliest: tuple[tuple[int, float], ...]


class Matcher(Protocol):
    """Where an output stands in its grammar."""

    def allowed(self) -> NDArray[np.bool_]:
        """Which tokens may come next, at least one, shape (vocabulary,)."""

    def take(self, token: int) -> None:
        """A token has come.

        Args:
            token: its id, one of those that were allowed.
        """


class Shaping:
    """The rows of one step.

    Args:
        matchers: of each row, None where anything goes, shape (rows,).
        logprobs: how many of the likeliest tokens each row wants told, None for nothing, shape (rows,).

    Attributes:
        told: what was found of each row, None where nothing was asked, shape (rows,); empty before `hear`.
    """

    def __init__(self, matchers: Sequence[Matcher | None], logprobs: Sequence[int | None]) -> None:
        self._matchers, self._logprobs = matchers, logprobs
        self.told: list[Logprobs | None] = []

    def constrain(self, logits: torch.Tensor) -> torch.Tensor:
        """Logits to choose from: as they are, or with tokens beyond a row's grammar at minus infinity.

        Args:
            logits: shape (rows, vocabulary).
        """
        if not any(matcher is not None for matcher in self._matchers):
            return logits
        allowed = np.ones(logits.shape, np.bool_)
        for row, matcher in enumerate(self._matchers):
            if matcher is not None:
                allowed[row] = matcher.allowed()
        return logits.masked_fill(~torch.from_numpy(allowed).to(logits.device), float("-inf"))

    def hear(self, logits: torch.Tensor, ids: NDArray[np.int64]) -> None:
        """The tokens have been chosen.

        Args:
            logits: as the model gave them, shape (rows, vocabulary).
            ids: the tokens, shape (rows,).
        """
        self.told = [None] * len(ids)
        for row, wanted in enumerate(self._logprobs):
            if wanted is not None:
                logarithms = logits[row].float().log_softmax(-1)
                values, tokens = logarithms.topk(min(wanted, len(logarithms)))
                likeliest = tuple(zip(tokens.tolist(), values.tolist(), strict=True))
                self.told[row] = Logprobs(float(logarithms[ids[row]]), likeliest)
        for matcher, token in zip(self._matchers, ids.tolist(), strict=True):
            if matcher is not None:
                matcher.take(token)
