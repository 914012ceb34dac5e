"""From logits to the next token: greedy, or drawn with a temperature and a top-p cut, the same in whatever batch.

A draw depends on the seed, the request and the token's place alone, so that neither batching, chunking nor a
recomputation after preemption changes what a request says.
"""

from __future__ import annotations

import math
from dataclasses import dataclass

import numpy as np
import torch
from numpy.typing import NDArray

_GOLDEN = np.uint64(0x9E3779B97F4A7C15)
_MIX = (np.uint64(0xBF58476D1CE4E5B9), np.uint64(0x94D049BB133111EB))


@dataclass(frozen=True, slots=True)
class Sampling:
    """How tokens are chosen and when a request stops.

    Attributes:
        temperature: 0 for the likeliest token, >= 0.
        top_p: draw from the likeliest tokens that together have this probability, in (0, 1].
        seed: of the draws.
        eos_token_id: a request that emits it says no more; None lets every request run to its output length. In a
            padded batch it keeps its place until all are done.

    Raises:
        ValueError: a value is outside its bound; the message names it.
    """

    temperature: float = 0.0
    top_p: float = 1.0
    seed: int = 0
    eos_token_id: int | None = None

    def __post_init__(self) -> None:
        if not (math.isfinite(self.temperature) and self.temperature >= 0):
            raise ValueError(f"temperature is {self.temperature}; it must be >= 0 (0 for greedy)")
        if not 0 < self.top_p <= 1:
            raise ValueError(f"top_p is {self.top_p}; it must be above 0 and at most 1")


def uniform(seed: int, request: NDArray[np.int64], place: NDArray[np.int64]) -> NDArray[np.float64]:
    """Numbers in [0, 1) that depend on their arguments alone, by the SplitMix64 generator's mixing function.

    Args:
        seed: any whole number.
        request: request ids, shape (n,).
        place: place of the token in its request, shape (n,).
    """
    key = np.full(request.shape, seed & (2**64 - 1), np.uint64)
    for part in (request, place):
        key = _mixed((key ^ part.astype(np.uint64)) + _GOLDEN)
    return (key >> np.uint64(11)).astype(np.float64) / 2.0**53


def choose(
    logits: torch.Tensor, sampling: Sampling, request: NDArray[np.int64], place: NDArray[np.int64]
) -> torch.Tensor:
    """The next token of each row.

    Args:
        logits: shape (n, vocabulary).
        sampling: how to choose.
        request: request ids, shape (n,).
        place: place of the token in its request, shape (n,).

    Returns:
        Token ids, shape (n,).
    """
    if sampling.temperature == 0:
        return logits.argmax(-1)
    probability, token = (logits.float() / sampling.temperature).softmax(-1).sort(stable=True, dim=-1, descending=True)
    below = probability.cumsum(-1) - probability
    kept = probability.masked_fill(below >= sampling.top_p, 0.0).double().cumsum(-1)
    drawn = torch.from_numpy(uniform(sampling.seed, request, place)).to(logits.device).unsqueeze(-1) * kept[:, -1:]
    # Rounding may put the draw on the total itself, which is above every kept token.
    index = torch.searchsorted(kept, drawn, right=True).clamp_(max=logits.shape[-1] - 1)
    chosen: torch.Tensor = token.gather(-1, index).squeeze(-1)
    return chosen


def _mixed(key: NDArray[np.uint64]) -> NDArray[np.uint64]:
    key = (key ^ (key >> np.uint64(30))) * _MIX[0]
    key = (key ^ (key >> np.uint64(27))) * _MIX[1]
    mixed: NDArray[np.uint64] = key ^ (key >> np.uint64(31))
    return mixed
