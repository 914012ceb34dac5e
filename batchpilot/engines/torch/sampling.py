"""From logits to the next token: greedy, or drawn with a temperature and a top-p cut, the same in whatever batch.

A draw depends on the seed, the request's stream and the token's place alone, so that neither batching, chunking nor a
recomputation after preemption changes what a request says.
"""

from __future__ import annotations

import math
from dataclasses import dataclass

import numpy as np
import torch
from numpy.typing import NDArray

_GOLDEN = np.uint64(0x9E3779B97F4A7C15)
_WORD = 2**64 - 1
_MIX = (np.uint64(0xBF58476D1CE4E5B9), np.uint64(0x94D049BB133111EB))


@dataclass(frozen=True, slots=True)
class Sampling:
    """How tokens are chosen and when a request stops.

    Attributes:
        temperature: 0 for the likeliest token, >= 0.
        top_p: draw from the likeliest tokens that together have this probability, in (0, 1].
        seed: of the draws.
        stop_token_ids: a request that emits one of them says no more; without any it runs to its output length. In a
            padded batch it keeps its place until all are done.

    Raises:
        ValueError: a value is outside its bound; the message names it.
    """

    temperature: float = 0.0
    top_p: float = 1.0
    seed: int = 0
    stop_token_ids: tuple[int, ...] = ()

    def __post_init__(self) -> None:
        if not (math.isfinite(self.temperature) and self.temperature >= 0):
            raise ValueError(f"temperature is {self.temperature}; it must be >= 0 (0 for greedy)")
        if not 0 < self.top_p <= 1:
            raise ValueError(f"top_p is {self.top_p}; it must be above 0 and at most 1")


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

    def set(self, request: int, sampling: Sampling, stream: int) -> None:
        """Say how a request is sampled.

        Args:
            request: its id.
            sampling: how.
            stream: of its draws.
        """
        self.draws[request] = (sampling.temperature, sampling.top_p, sampling.seed & _WORD, stream)
        if sampling.stop_token_ids:
            self._stops[request] = frozenset(sampling.stop_token_ids)
        else:
            self._stops.pop(request, None)

    def stopping(self, requests: NDArray[np.int64], ids: NDArray[np.int64]) -> NDArray[np.int64]:
        """Those requests whose next token is a stop.

        Args:
            requests: request ids, shape (n,).
            ids: their next tokens, shape (n,).
        """
        if not self._stops:
            return requests[:0]
        pairs = zip(requests.tolist(), ids.tolist(), strict=True)
        return requests[[token in self._stops.get(request, ()) for request, token in pairs]]


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

    def column(values: NDArray[np.float64]) -> torch.Tensor:
        return torch.from_numpy(np.ascontiguousarray(values)).to(logits.device).unsqueeze(-1)

    scaled = logits.float() / column(draws["temperature"]).float()
    probability, token = scaled.softmax(-1).sort(stable=True, dim=-1, descending=True)
    below = probability.cumsum(-1) - probability
    kept = probability.masked_fill(below >= column(draws["top_p"]), 0.0).double().cumsum(-1)
    drawn = column(uniform(draws["seed"], draws["stream"], place)) * kept[:, -1:]
    # Rounding may put the draw on the total itself, which is above every kept token.
    index = torch.searchsorted(kept, drawn, right=True).clamp_(max=logits.shape[-1] - 1)
    tokens: torch.Tensor = token.gather(-1, index).squeeze(-1)
    return tokens


def _mixed(key: NDArray[np.uint64]) -> NDArray[np.uint64]:
    key = (key ^ (key >> np.uint64(30))) * _MIX[0]
    key = (key ^ (key >> np.uint64(27))) * _MIX[1]
    mixed: NDArray[np.uint64] = key ^ (key >> np.uint64(31))
    return mixed
