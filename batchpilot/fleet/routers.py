"""Routers: a rule, how fresh its view of the replicas is, and whether it counts what it has sent itself."""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass

from batchpilot.core.names import lookup
from batchpilot.fleet import rules

RULES: Mapping[str, int] = {
    "round-robin": rules.ROUND_ROBIN,
    "weighted": rules.WEIGHTED,
    "random": rules.RANDOM,
    "power-of-two": rules.POWER_OF_TWO,
    "least-requests": rules.LEAST_REQUESTS,
    "least-tokens": rules.LEAST_TOKENS,
    "predicted-ttft": rules.PREDICTED_TTFT,
    "prefix": rules.PREFIX,
}
"""By the name that users type. `least-tokens` compares the prompt tokens that wait for their first token; `prefix`
these and what a replica does not hold of the request's own prompt, in the ms that they take there: the longest cached
prefix against load."""


@dataclass(frozen=True, slots=True)
class Router:
    """How requests find their replica.

    Attributes:
        rule: a key of `RULES`.
        poll_ms: how old the view of the replicas may get: 0 sees every replica as it is, else all are looked at every
            so many ms and believed until then, as routers do that scrape metrics.
        counts_sent: add what was sent since the last poll to what was seen; without it, everybody runs to the replica
            that looked best until the next poll.
        retries: other replicas that a request tries when it cannot reach one, >= 0.
        breaker_failures: failures in a row after which a replica is left alone, >= 1.
        breaker_ms: for so long; then one request tries again.
        degrade_ttft_ms: a request whose predicted TTFT exceeds this on every replica of the model asked for goes to a
            smaller model (tier 1); infinity never degrades.

    Raises:
        ValueError: a value is outside its bound; the message names it.
    """

    rule: str = "round-robin"
    poll_ms: float = 0.0
    counts_sent: bool = True
    retries: int = 1
    breaker_failures: int = 5
    breaker_ms: float = 10_000.0
    degrade_ttft_ms: float = math.inf

    def __post_init__(self) -> None:
        lookup(RULES, self.rule, "routing rule")
        for name, least in (("poll_ms", 0), ("retries", 0), ("breaker_failures", 1), ("breaker_ms", 0)):
            value = getattr(self, name)
            if not (value >= least and math.isfinite(value)):
                raise ValueError(f"{name} is {value}; it must be >= {least} and finite")
        if not self.degrade_ttft_ms > 0:
            raise ValueError(f"degrade_ttft_ms is {self.degrade_ttft_ms}; it must be above 0")

    @property
    def code(self) -> int:
        """The rule's code."""
        return RULES[self.rule]
