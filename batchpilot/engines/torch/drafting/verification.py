"""Which drafted tokens stand, by rejection sampling: what is said is distributed as if nobody had drafted."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import torch
from numpy.typing import NDArray

from batchpilot.engines.torch.drafting.base import Drafts
from batchpilot.engines.torch.sampling import ACCEPTED, CORRECTED, choose, distribution, from_distribution, uniform
from batchpilot.engines.torch.shaping import Logprobs


@dataclass(slots=True)
class Verified:
    """What n requests say after a step.

    Attributes:
        counts: tokens each, >= 1: those of its draft that stand, and one more, shape (n,).
        ids: one request after the other, shape (counts.sum(),).
        logprobs: of each of them where its request asked, else None; an empty list where nobody did.
    """

    counts: NDArray[np.int64]
    ids: NDArray[np.int64]
    logprobs: list[Logprobs | None]


def verify(
    logits: torch.Tensor, drafts: Drafts, draws: NDArray[np.void], place: NDArray[np.int64]
) -> tuple[NDArray[np.int64], NDArray[np.int64]]:
    """Accept each token x of a draft with probability min(1, p(x) / q(x)), up to the first that is rejected.

    In place of that one comes a token of max(0, p - q), normalised; where all stand, one of p after the last. Greedy
    requests keep what they would have said anyway.

    Args:
        logits: of the large model, p; each request's rows together, one before each of its drafted tokens and one after
            the last, shape (n + drafted, vocabulary).
        drafts: of the n requests, with q.
        draws: how they choose, records of `DRAW`, shape (n,).
        place: tokens that each has said, shape (n,).

    Returns:
        How many of each draft stand, and the token that follows them, both of shape (n,).

    Source: Leviathan, Kalman, Matias, "Fast Inference from Transformers via Speculative Decoding" (2023), algorithm 1.
    """
    counts, n = drafts.counts, len(drafts.counts)
    owner = np.repeat(np.arange(n), counts)
    within = np.arange(len(owner)) - (np.cumsum(counts) - counts)[owner]
    first = np.cumsum(counts + 1) - (counts + 1)
    stands = np.zeros(len(owner), np.bool_)
    greedy = draws["temperature"][owner] <= 0
    if greedy.any():
        rows = torch.from_numpy((first[owner] + within)[greedy]).to(logits.device)
        stands[greedy] = logits[rows].argmax(-1).cpu().numpy() == drafts.ids[greedy]
    drawn = np.flatnonzero(~greedy)
    if len(drawn):
        level = uniform(draws["seed"][owner], draws["stream"][owner] ^ ACCEPTED, place[owner] + within)[drawn]
        ids = torch.from_numpy(drafts.ids[drawn]).to(logits.device).unsqueeze(-1)
        rows = torch.from_numpy((first[owner] + within)[drawn]).to(logits.device)
        p = distribution(logits[rows], draws[owner[drawn]])
        q = (
            _one_hot(p, ids)
            if drafts.probabilities is None
            else drafts.probabilities[torch.from_numpy(drawn).to(p.device)]
        )
        ratio = (p.gather(-1, ids) / q.gather(-1, ids)).squeeze(-1).cpu().numpy()
        stands[drawn] = level < ratio
    accepted = counts.copy()
    np.minimum.at(accepted, owner[~stands], within[~stands])
    chosen: NDArray[np.int64] = (
        choose(logits[torch.from_numpy(first + accepted).to(logits.device)], draws, place + accepted).cpu().numpy()
    )
    corrected = np.flatnonzero((accepted < counts) & (draws["temperature"] > 0))
    if len(corrected):
        # Where in `p` and `q` the rejected tokens are.
        rejected = (np.cumsum(counts) - counts + accepted)[corrected]
        at = torch.from_numpy(np.searchsorted(drawn, rejected)).to(logits.device)
        rest = (p[at] - q[at]).clamp_min_(0.0)
        # Where p and q are the same nothing is ever rejected but by rounding.
        rest = torch.where(rest.sum(-1, keepdim=True) > 0, rest, p[at])
        streams = draws["stream"][corrected] ^ CORRECTED
        level = uniform(draws["seed"][corrected], streams, (place + accepted)[corrected])
        chosen[corrected] = from_distribution(rest, level).cpu().numpy()
    return accepted, chosen


def joined(drafts: Drafts, accepted: NDArray[np.int64], chosen: NDArray[np.int64]) -> NDArray[np.int64]:
    """What each request says, one after the other: the accepted part of its draft and the token behind.

    Args:
        drafts: of n requests.
        accepted: as `verify` tells them, shape (n,).
        chosen: likewise.

    Returns:
        Token ids, shape ((accepted + 1).sum(),).
    """
    counts = accepted + 1
    owner = np.repeat(np.arange(len(counts)), counts)
    within = np.arange(len(owner)) - (np.cumsum(counts) - counts)[owner]
    last = within == accepted[owner]
    ids = np.zeros(len(owner), np.int64)
    ids[last] = chosen
    starts = np.cumsum(drafts.counts) - drafts.counts
    ids[~last] = drafts.ids[(starts[owner] + within)[~last]]
    return ids


def rows_of(counts: NDArray[np.int64], accepted: NDArray[np.int64]) -> NDArray[np.int64]:
    """The rows of logits that the tokens of `joined` were chosen from.

    Args:
        counts: drafted tokens of n requests, shape (n,).
        accepted: of these, those that stand.

    Returns:
        Places among the n + counts.sum() rows, shape ((accepted + 1).sum(),).
    """
    first = np.cumsum(counts + 1) - (counts + 1)
    said = accepted + 1
    before = np.cumsum(said) - said
    rows: NDArray[np.int64] = np.arange(int(said.sum())) + np.repeat(first - before, said)
    return rows


def _one_hot(like: torch.Tensor, ids: torch.Tensor) -> torch.Tensor:
    return torch.zeros_like(like).scatter_(-1, ids, 1.0)
