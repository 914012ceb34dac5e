"""Drafts without a model: what followed the last time that the text ended as it does now."""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

from batchpilot.engines.torch.drafting.base import Drafting, Drafts

LONGEST_MATCH, SHORTEST_MATCH = 4, 2
"""Tokens at the end of the text that must have stood there before; longer matches are looked for first."""


class PromptLookup:
    """Looks up the end of prompt and output in themselves.

    Source: Saxena, "Prompt Lookup Decoding" (2023); vLLM's method "ngram".
    """

    def follow(self, requests: NDArray[np.int64], computed: NDArray[np.int64], generated: NDArray[np.int64]) -> None:
        """Nothing is kept of anybody."""

    def draft(self, asked: Drafting) -> Drafts:
        """What followed the latest earlier match, nothing where there is none.

        Args:
            asked: for whom.
        """
        found = [
            continuation(asked.tokens.text(int(r), int(known)), int(most))
            for r, known, most in zip(asked.requests, asked.known, asked.most, strict=True)
        ]
        counts = np.array([len(ids) for ids in found], np.int64)
        return Drafts(counts, np.concatenate([np.zeros(0, np.int64), *found]))


def continuation(text: NDArray[np.int64], most: int) -> NDArray[np.int64]:
    """What followed where the end of a text stood before, the longest match first, of equal ones the latest.

    Args:
        text: token ids, shape (n,).
        most: tokens wanted at most.

    Returns:
        Token ids, at most so many; none without a match.
    """
    for size in range(min(LONGEST_MATCH, len(text) - 1), SHORTEST_MATCH - 1, -1):
        matches = text[size - 1 : -1] == text[-1]
        for back in range(1, size):
            matches &= text[size - 1 - back : len(text) - 1 - back] == text[-1 - back]
        places = np.flatnonzero(matches)
        if len(places):
            first = int(places[-1]) + size
            return text[first : first + most]
    return text[:0]
