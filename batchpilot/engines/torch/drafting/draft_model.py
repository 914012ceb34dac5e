"""Drafts by a smaller model of the same vocabulary, in a KV cache of its own that lies in the same blocks."""

from __future__ import annotations

import logging

import numpy as np
import torch
from numpy.typing import NDArray

from batchpilot.engines.torch.cache import PagedKVCache
from batchpilot.engines.torch.device import is_out_of_memory, release_cached
from batchpilot.engines.torch.drafting.base import Drafting, Drafts
from batchpilot.engines.torch.packing import StepTokens, forward
from batchpilot.engines.torch.sampling import DRAFTED, distribution, from_distribution, uniform

log = logging.getLogger("batchpilot.torch")


class DraftModel:
    """One token after the other, for all requests together.

    A request's text is computed when it drafts for the first time, and what it said without drafts when it drafts
    again. KV blocks are the scheduler's: block b of a request is block b here, and shared ones are shared.

    Args:
        model: a causal LM on paged attention.
        cache: its keys and values, as many blocks as the large model's.
    """

    def __init__(self, model: torch.nn.Module, cache: PagedKVCache) -> None:
        self._model, self._cache = model, cache
        self._seen = np.zeros(0, np.int64)

    def follow(self, requests: NDArray[np.int64], computed: NDArray[np.int64], generated: NDArray[np.int64]) -> None:
        """Forget what lay in blocks that a request has lost, and who was in its place before.

        Args:
            requests: ids of those in the step, shape (n,).
            computed: tokens in the KV cache of each.
            generated: tokens that each has said.
        """
        if len(requests) and len(self._seen) <= requests.max():
            self._seen = np.concatenate([self._seen, np.zeros(int(requests.max()) + 1, np.int64)])
        self._seen[requests] = np.where(generated == 0, 0, np.minimum(self._seen[requests], computed))

    def draft(self, asked: Drafting) -> Drafts:
        """As many tokens for each as it may have; none where the device has no memory for it.

        Args:
            asked: for whom.
        """
        try:
            with torch.inference_mode():
                return self._draft(asked)
        except (RuntimeError, MemoryError) as error:
            if not is_out_of_memory(error):
                raise
            log.warning("the draft model ran out of memory in a step, which goes without drafts: %s", error)
        release_cached(self._cache.keys[0].device)
        return Drafts(np.zeros(len(asked.requests), np.int64), np.zeros(0, np.int64))

    def _draft(self, asked: Drafting) -> Drafts:
        first = np.cumsum(asked.most) - asked.most
        ids = np.zeros(int(asked.most.sum()), np.int64)
        rows: list[torch.Tensor] = []
        wherefrom: list[NDArray[np.int64]] = []
        for number in range(int(asked.most.max())):
            members = np.flatnonzero(asked.most > number)
            if number == 0:
                step = self._catching_up(asked)
            else:
                # The token that was just drafted for each.
                last = ids[first[members] + number - 1]
                step = _step(asked, members, last, np.ones(len(members), np.int64), asked.known[members] + number - 1)
            q = distribution(forward(self._model, step, self._cache), asked.draws[members])
            level = uniform(
                asked.draws["seed"][members],
                asked.draws["stream"][members] ^ DRAFTED,
                asked.place[members] + number,
            )
            ids[first[members] + number] = from_distribution(q, level).cpu().numpy()
            rows.append(q)
            wherefrom.append(first[members] + number)
        self._seen[asked.requests] = asked.known + asked.most - 1
        order = torch.from_numpy(np.argsort(np.concatenate(wherefrom))).to(rows[0].device)
        return Drafts(asked.most, ids, torch.cat(rows)[order])

    def _catching_up(self, asked: Drafting) -> StepTokens:
        """All that was said since the last draft."""
        seen = self._seen[asked.requests]
        tokens = asked.known - seen
        owner = np.repeat(np.arange(len(tokens)), tokens)
        place = np.arange(len(owner)) + (seen - (np.cumsum(tokens) - tokens))[owner]
        everybody = np.arange(len(tokens))
        return _step(asked, everybody, asked.tokens.read(asked.requests[owner], place), tokens, seen)


def _step(
    asked: Drafting,
    members: NDArray[np.intp],
    ids: NDArray[np.int64],
    tokens: NDArray[np.int64],
    computed: NDArray[np.int64],
) -> StepTokens:
    """A step of some of them, at places `members`, each of which wants its next token."""
    return StepTokens(
        ids=ids,
        tables=asked.tables.table(asked.requests[members]),
        tokens=tokens,
        computed=computed,
        padding=np.zeros(len(tokens), np.int64),
        wanted=np.ones(len(tokens), np.bool_),
    )
