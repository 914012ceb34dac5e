"""Room in the upstream's KV cache, for upstreams that neither queue nor preempt when it is full. Lengths in tokens.

llama.cpp with one cache for all its slots ends every request in it with an error once their contexts together no longer
fit. Where the size is not told it is learned the first time that this happens.
"""

from __future__ import annotations

import math
from collections.abc import Iterable

from batchpilot.serving.gateway.completions import Completion
from batchpilot.serving.gateway.waiting import Ticket

_SAME_MS = 1000.0
"""Errors so close together are of the same overflow: those who hear of it later find fewer beside them."""

_SURE = 0.95
"""Of a size that was learned: what requests had held was read when the first error had come, not when it was sent."""


class CacheRoom:
    """Counts what requests at the upstream may come to hold in its cache.

    Args:
        capacity_tokens: what it holds, None for unknown.

    Attributes:
        capacity_tokens: likewise, infinity for unknown; what is learned only lowers it.
    """

    def __init__(self, capacity_tokens: int | None = None) -> None:
        self.capacity_tokens = math.inf if capacity_tokens is None else float(capacity_tokens)
        self._held: dict[Ticket, float] = {}
        self._tokens = 0.0
        self._overflowed_ms = -math.inf

    def fits(self, completion: Completion, usual_output_tokens: float) -> bool:
        """Whether a request may go beside those that are there.

        Args:
            completion: what it asks for.
            usual_output_tokens: of requests that do not say how many they want.
        """
        return self._tokens + _wanted(completion, usual_output_tokens) <= self.capacity_tokens

    def enter(self, ticket: Ticket, usual_output_tokens: float) -> None:
        """A request goes to the upstream.

        Args:
            ticket: its ticket.
            usual_output_tokens: as in `fits`.
        """
        self._held[ticket] = _wanted(ticket.completion, usual_output_tokens)
        self._tokens += self._held[ticket]

    def leave(self, ticket: Ticket) -> None:
        """A request has ended.

        Args:
            ticket: any ticket, once or again.
        """
        self._tokens -= self._held.pop(ticket, 0.0)

    def hear_overflow(self, inside: Iterable[Ticket], now_ms: float) -> None:
        """The upstream has run out of room.

        Args:
            inside: who was there, whoever says so included.
            now_ms: the present.
        """
        if now_ms - self._overflowed_ms > _SAME_MS:
            there = sum(ticket.completion.prompt_tokens + ticket.spoken_tokens for ticket in inside)
            self.capacity_tokens = min(self.capacity_tokens, _SURE * there)
        self._overflowed_ms = now_ms


def _wanted(completion: Completion, usual_output_tokens: float) -> float:
    """Tokens of a request's contexts when it has said everything."""
    each = completion.prompt_tokens + completion.output_tokens(usual_output_tokens)
    return completion.choices * each
