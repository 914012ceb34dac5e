"""From logits to the next token: greedy, or drawn with a temperature and a top-p cut, the same in whatever batch.

A draw depends on the seed, the request's stream and the token's place alone, so that neither batching, chunking nor a
recomputation after preemption changes what a request says.
"""

from __future__ import annotations

from typing import TypeVar

import numpy as np
import torch
from numpy.typing import NDArray

from batchpilot.core.sampling import Sampling
from batchpilot.engines.torch.shaping import Matcher, Shaping

Value = TypeVar("Value")

DRAFTED, ACCEPTED, CORRECTED = (number << 48 for number in (1, 2, 3))
"""Kinds of draws beside the plain one, told apart by their streams: a draft's, whether it stands, and what is said
instead."""

_GOLDEN = np.uint64(0x9E3779B97F4A7C15)
_WORD = 2**64 - 1
_MIX = (np.uint64(0xBF58476D1CE4E5B9), np.uint64(0x94D049BB133111EB))


DRAW = np.dtype([("temperature", "f8"), ("top_p", "f8"), ("seed", "u8"), ("stream", "i8")])
"""How the tokens of one request are drawn: `Sampling` without its stops, and a stream that tells apart the draws of
requests with one seed."""


class SamplingTable:
    """How each request is sampled.

    Args:
        requests: number of requests.

    Attributes:
        draws: records of `DRAW`, shape (requests,).
    """

    def __init__(self, requests: int) -> None:
        self.draws = np.zeros(requests, DRAW)
        self._stops: dict[int, frozenset[int]] = {}
        self._matchers: dict[int, Matcher] = {}
        self._logprobs: dict[int, int] = {}

    def set(self, request: int, sampling: Sampling, stream: int, matcher: Matcher | None = None) -> None:
        """Say how a request is sampled.

        Args:
            request: its id.
            sampling: how.
            stream: of its draws.
            matcher: of its schema, None where it has none.
        """
        _put(self._matchers, request, matcher)
        _put(self._logprobs, request, sampling.logprobs)
        self.draws[request] = (sampling.temperature, sampling.top_p, sampling.seed & _WORD, stream)
        if sampling.stop_token_ids:
            self._stops[request] = frozenset(sampling.stop_token_ids)
        else:
            self._stops.pop(request, None)

    def shaping(self, requests: NDArray[np.int64]) -> Shaping | None:
        """What these requests ask beside their next tokens, None where nothing.

        Args:
            requests: request ids, shape (n,).
        """
        if not (self._matchers or self._logprobs):
            return None
        rows = requests.tolist()
        matchers, logprobs = [self._matchers.get(row) for row in rows], [self._logprobs.get(row) for row in rows]
        asked = any(one is not None for one in (*matchers, *logprobs))
        return Shaping(matchers, logprobs) if asked else None

    def stopping(self, requests: NDArray[np.int64], ids: NDArray[np.int64]) -> NDArray[np.bool_]:
        """Which of some tokens are stops.

        Args:
            requests: request ids, shape (n,).
            ids: tokens of theirs, shape (n,).

        Returns:
            Shape (n,).
        """
        if not self._stops:
            return np.zeros(len(requests), np.bool_)
        pairs = zip(requests.tolist(), ids.tolist(), strict=True)
        return np.array([token in self._stops.get(request, ()) for request, token in pairs], np.bool_)

    def may_draft(self, requests: NDArray[np.int64]) -> NDArray[np.bool_]:
        """Whose outputs are bound by no grammar, which says what may come after a token only once it has come.

        Args:
            requests: request ids, shape (n,).
        """
        return np.array([request not in self._matchers for request in requests.tolist()], np.bool_)


def uniform(seed: NDArray[np.uint64], stream: NDArray[np.int64], place: NDArray[np.int64]) -> NDArray[np.float64]:
    """Numbers in [0, 1) that depend on their arguments alone, by the SplitMix64 generator's mixing function.

    Args:
        seed: shape (n,).
        stream: of each request's draws, shape (n,).
        place: place of the token in its request, shape (n,).
    """
    key = seed
    for part in (stream, place):
        key = _mixed((key ^ part.astype(np.uint64)) + _GOLDEN)
    return (key >> np.uint64(11)).astype(np.float64) / 2.0**53


def choose(logits: torch.Tensor, draws: NDArray[np.void], place: NDArray[np.int64]) -> torch.Tensor:
    """The next token of each row.

    Args:
        logits: shape (n, vocabulary).
        draws: how to choose, records of `DRAW`, shape (n,).
        place: place of the token in its request, shape (n,).

    Returns:
        Token ids, shape (n,).
    """
    chosen: torch.Tensor = logits.argmax(-1)
    drawing = np.flatnonzero(draws["temperature"] > 0)
    if len(drawing):
        rows = torch.from_numpy(drawing).to(logits.device)
        chosen[rows] = _drawn(logits[rows], draws[drawing], place[drawing])
    return chosen


def _drawn(logits: torch.Tensor, draws: NDArray[np.void], place: NDArray[np.int64]) -> torch.Tensor:
    """A token of each row by its temperature, > 0, and its top-p cut."""
    probability, token = _kept(logits, draws)
    kept = probability.cumsum(-1)
    drawn = _column(uniform(draws["seed"], draws["stream"], place), logits) * kept[:, -1:]
    # Rounding may put the draw on the total itself, which is above every kept token.
    index = torch.searchsorted(kept, drawn, right=True).clamp_(max=logits.shape[-1] - 1)
    tokens: torch.Tensor = token.gather(-1, index).squeeze(-1)
    return tokens


def _column(values: NDArray[np.float64], like: torch.Tensor) -> torch.Tensor:
    return torch.from_numpy(np.ascontiguousarray(values)).to(like.device).unsqueeze(-1)


def _kept(logits: torch.Tensor, draws: NDArray[np.void]) -> tuple[torch.Tensor, torch.Tensor]:
    """Probabilities, the likeliest first, zero behind the top-p cut, and the tokens that they belong to."""
    scaled = logits.float() / _column(draws["temperature"], logits).float()
    probability, token = scaled.softmax(-1).sort(stable=True, dim=-1, descending=True)
    below = probability.cumsum(-1) - probability
    return probability.masked_fill(below >= _column(draws["top_p"], logits), 0.0).double(), token


def distribution(logits: torch.Tensor, draws: NDArray[np.void]) -> torch.Tensor:
    """What a token is drawn from: everything on the likeliest one at temperature 0.

    Args:
        logits: shape (n, vocabulary).
        draws: how each row is drawn, records of `DRAW`, shape (n,).

    Returns:
        Probabilities, float64, shape (n, vocabulary).
    """
    out = torch.zeros_like(logits, dtype=torch.float64)
    greedy = torch.from_numpy(np.flatnonzero(draws["temperature"] <= 0)).to(logits.device)
    out[greedy, logits[greedy].argmax(-1)] = 1.0
    drawing = np.flatnonzero(draws["temperature"] > 0)
    if len(drawing):
        rows = torch.from_numpy(drawing).to(logits.device)
        probability, token = _kept(logits[rows], draws[drawing])
        out[rows] = torch.zeros_like(probability).scatter_(-1, token, probability / probability.sum(-1, keepdim=True))
    return out


def from_distribution(probabilities: torch.Tensor, level: NDArray[np.float64]) -> torch.Tensor:
    """A token of each row: the first at which the probabilities add up to more than a level of their sum.

    Args:
        probabilities: float64, of any sum above 0, shape (n, vocabulary).
        level: in [0, 1), shape (n,).

    Returns:
        Token ids, shape (n,).
    """
    below = probabilities.cumsum(-1)
    drawn = torch.from_numpy(level).to(below.device).unsqueeze(-1) * below[:, -1:]
    # Rounding may put the level on the sum itself: then it is the last token that can be drawn.
    highest = (below < below[:, -1:]).sum(-1, keepdim=True)
    index = torch.minimum(torch.searchsorted(below, drawn, right=True), highest)
    return index.squeeze(-1)


def _put(by_request: dict[int, Value], request: int, value: Value | None) -> None:
    if value is None:
        by_request.pop(request, None)
    else:
        by_request[request] = value


def _mixed(key: NDArray[np.uint64]) -> NDArray[np.uint64]:
    key = (key ^ (key >> np.uint64(30))) * _MIX[0]
    key = (key ^ (key >> np.uint64(27))) * _MIX[1]
    mixed: NDArray[np.uint64] = key ^ (key >> np.uint64(31))
    return mixed
