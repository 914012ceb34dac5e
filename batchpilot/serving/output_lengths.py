"""How long answers will be, learned from those that ended: most clients allow far more tokens than they get."""

from __future__ import annotations

FEWEST = 10
"""Answers before a mean is believed."""

MEMORY = 200
"""The mean follows about so many of the latest answers."""


class OutputLengths:
    """Mean output tokens by the length of prompts, in doublings; of all where few were like this one.

    It feeds the disciplines that ask how long an answer takes: `sjf`, `fair` and `value`. Called by one thread.
    """

    def __init__(self) -> None:
        self._by_length: dict[int, tuple[int, float]] = {}
        self._all = (0, 0.0)

    def hear(self, prompt_tokens: int, output_tokens: int) -> None:
        """An answer has ended by itself.

        Args:
            prompt_tokens: of its prompt.
            output_tokens: it had.
        """
        length = prompt_tokens.bit_length()
        self._by_length[length] = _with(self._by_length.get(length, (0, 0.0)), output_tokens)
        self._all = _with(self._all, output_tokens)

    def expected(self, prompt_tokens: int, most: int) -> float:
        """Output tokens that an answer will have, at most what is allowed; that, before anything was learned.

        Args:
            prompt_tokens: of its prompt.
            most: allowed by its client.
        """
        for count, mean in (self._by_length.get(prompt_tokens.bit_length(), (0, 0.0)), self._all):
            if count >= FEWEST:
                return min(mean, float(most))
        return float(most)


def _with(known: tuple[int, float], value: float) -> tuple[int, float]:
    count = known[0] + 1
    return count, known[1] + (value - known[1]) / min(count, MEMORY)
