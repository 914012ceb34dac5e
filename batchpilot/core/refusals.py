"""Whose refusals count too many: the refused share of each quarter of prompt lengths, as a server can know it.

Where the quarters part is learned from the prompts that come: a quantile follows each arrival by a step up or down. A
share is a mean that forgets. The compiled scheduler keeps the same figures in its state.
"""

from __future__ import annotations

from itertools import accumulate

QUARTERS = 4

SLOWEST_EDGE, SLOWEST_SHARE, SLOWEST_OVERALL = 0.01, 0.01, 0.0025
"""How much the latest arrival or decision moves what is remembered, at least: the last hundred prompts tell where
quarters part, the last hundred decisions the share of each, the last 400 that of all."""

PROMOTED = 1e12
"""Taken off the key of a request that goes first because its quarter is refused too often; no discipline that the bound
holds under has keys as far apart."""

BOUNDED = ("fcfs", "sjf", "spf", "slo", "fair", "value")
"""Disciplines under which the bound holds; the others say themselves whom they serve first."""


class RefusedShares:
    """Refused shares of the quarters of prompt lengths, shortest first.

    Attributes:
        edges: prompt tokens at which the quarters part, three.
        shares: refused share of each quarter, 0-1, four.
        overall: refused share of all.
    """

    def __init__(self) -> None:
        self.edges = [0.0] * (QUARTERS - 1)
        self.shares = [0.0] * QUARTERS
        self.overall = 0.0
        self._arrivals = 0
        self._decisions = [0] * QUARTERS
        self._all_decisions = 0

    def arrive(self, prompt_tokens: float) -> None:
        """A request came.

        Args:
            prompt_tokens: of it, >= 1.
        """
        self._arrivals += 1
        if self._arrivals == 1:
            self.edges = [float(prompt_tokens)] * (QUARTERS - 1)
            return
        rate = max(1.0 / self._arrivals, SLOWEST_EDGE)
        for k in range(QUARTERS - 1):
            below = 1.0 if prompt_tokens <= self.edges[k] else 0.0
            self.edges[k] *= 1.0 + rate * ((k + 1) / QUARTERS - below)
        # One that a prompt pushed down does not pass those below it.
        self.edges = list(accumulate(self.edges, max))

    def decide(self, prompt_tokens: float, refused: bool) -> None:
        """A request was let in for the first time, or refused.

        Args:
            prompt_tokens: of it.
            refused: which of both.
        """
        k, value = self.quarter(prompt_tokens), float(refused)
        self._decisions[k] += 1
        self._all_decisions += 1
        self.shares[k] += max(1.0 / self._decisions[k], SLOWEST_SHARE) * (value - self.shares[k])
        self.overall += max(1.0 / self._all_decisions, SLOWEST_OVERALL) * (value - self.overall)

    def quarter(self, prompt_tokens: float) -> int:
        """The quarter of a prompt, 0 for the shortest.

        Args:
            prompt_tokens: of it.
        """
        return sum(prompt_tokens > edge for edge in self.edges)

    def goes_first(self, prompt_tokens: float, bound: float) -> bool:
        """Whether the quarter of a prompt is refused by more than a bound beyond all.

        Args:
            prompt_tokens: of it.
            bound: `Limits.refusal_bound`, infinity for off.
        """
        return self.shares[self.quarter(prompt_tokens)] > self.overall + bound
