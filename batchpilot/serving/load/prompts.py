"""Prompts of a wanted length for a server whose tokenizer is not known: words, as many bytes as the tokens take."""

from __future__ import annotations

import numpy as np

WORDS = (
    *("the", "of", "and", "to", "in", "is", "that", "for", "it", "as", "was", "with", "be", "by", "on", "not", "he"),
    *(
        "but",
        "are",
        "this",
        "have",
        "from",
        "had",
        "which",
        "one",
        "you",
        "were",
        "her",
        "all",
        "she",
        "there",
        "would",
    ),
)
DEFAULT_BYTES_PER_TOKEN = 4.0


class PromptWriter:
    """Writes texts.

    Args:
        bytes_per_token: of the server's tokenizer on this kind of text.
        rng: draws the words; no two prompts begin alike, so that no server answers from a cache of prefixes.
    """

    def __init__(self, bytes_per_token: float, rng: np.random.Generator) -> None:
        self._bytes_per_token = bytes_per_token
        self._rng = rng

    def write(self, tokens: int) -> str:
        """A text of about so many tokens.

        Args:
            tokens: how many, >= 1.
        """
        length = max(round(tokens * self._bytes_per_token), 1)
        count = length // 3 + 1
        text = " ".join(WORDS[i] for i in self._rng.integers(len(WORDS), size=count).tolist())
        return text[:length] if len(text) >= length else text.ljust(length, "s")
