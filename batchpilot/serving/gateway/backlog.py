"""Prompts at the upstream that have no first token yet. Lengths in tokens, times in ms."""

from __future__ import annotations

import heapq
import math

from batchpilot.serving.gateway.waiting import Ticket


class Backlog:
    """What the upstream has still to compute before it could begin with another prompt.

    A stream shows when its prompt has been computed. An answer that comes whole does not, and is believed to have it
    computed when its first token would have been due had it been alone: a belief that nothing ever checks must not feed
    on itself. Where nothing can be predicted it is left out.
    """

    def __init__(self) -> None:
        self._tokens = 0
        self._held: dict[Ticket, int] = {}
        self._until: list[tuple[float, int, Ticket]] = []

    def add(self, ticket: Ticket, until_ms: float) -> None:
        """A request goes to the upstream.

        Args:
            ticket: its ticket.
            until_ms: when its prompt is believed to be computed, infinity where that shows, NaN for unknown.
        """
        if math.isnan(until_ms):
            return
        self._held[ticket] = ticket.completion.prompt_tokens
        self._tokens += ticket.completion.prompt_tokens
        if until_ms < math.inf:
            heapq.heappush(self._until, (until_ms, ticket.number, ticket))

    def computed(self, ticket: Ticket) -> None:
        """A request has its first token, or has ended.

        Args:
            ticket: any ticket, once or again.
        """
        self._tokens -= self._held.pop(ticket, 0)

    def tokens(self, now_ms: float) -> int:
        """Prompt tokens in all.

        Args:
            now_ms: the present.
        """
        while self._until and self._until[0][0] <= now_ms:
            self.computed(heapq.heappop(self._until)[2])
        return self._tokens
