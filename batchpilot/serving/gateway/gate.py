"""The gate before the upstream: who may go, who waits, who is told no. Times in ms.

It holds what a gateway can hold of a tuner's limits: the concurrency, the queued tokens, the order, the TTFT guard, and
the step target as the largest concurrency whose time per token stays within it. A token budget belongs to steps, which
are the upstream's own.
"""

from __future__ import annotations

import math
from collections.abc import Callable

from batchpilot.core import Limits
from batchpilot.serving.gateway.service import ServiceModel
from batchpilot.serving.gateway.stalls import Stalls
from batchpilot.serving.gateway.waiting import RefusedError, Ticket, WaitingLine

LONGEST_RETRY_S = 30

TRIED_ANEW_MS = 1000.0
"""An upstream that has had nothing to do for so long gets a request whatever is predicted: it may have changed."""


class Gate:
    """Lets requests through one by one. Lives in one event loop.

    Args:
        limits: the limits in force.
        now_ms: the clock.

    Attributes:
        line: who waits.
        inside: who is at the upstream, in order of going.
        service: what is predicted of the upstream.
        stalls: when nothing can be learned of it.
    """

    def __init__(self, limits: Callable[[], Limits], now_ms: Callable[[], float]) -> None:
        self.line = WaitingLine()
        self.inside: dict[Ticket, None] = {}
        self.service = ServiceModel()
        self.stalls = Stalls()
        self._limits, self._now_ms = limits, now_ms
        self._uncomputed: dict[Ticket, None] = {}
        self._uncomputed_tokens = 0
        self._gap_ms, self._left_ms = 0.0, math.nan
        self._sent_ms = -math.inf

    async def pass_through(self, ticket: Ticket) -> None:
        """Wait for a ticket's turn; `leave` must follow whatever happens.

        Args:
            ticket: of a request that has come.

        Raises:
            RefusedError: it may not go.
        """
        limits = self._limits()
        self.line.order_by(limits.discipline or "fcfs")
        tokens = self.line.tokens + ticket.completion.prompt_tokens
        must_wait = len(self.line) > 0 or not self._room(limits)
        if must_wait and limits.max_queued_tokens is not None and tokens > limits.max_queued_tokens:
            reason = f"{tokens} prompt tokens would be waiting; {limits.max_queued_tokens} may"
            raise RefusedError("refused_on_arrival", reason, self.retry_after_s())
        self.line.add(ticket)
        self.move()
        refused = await ticket.turn
        if refused is not None:
            raise refused

    def leave(self, ticket: Ticket) -> None:
        """A ticket's request has ended, or waits no longer.

        Args:
            ticket: any ticket, once or again.
        """
        self.line.remove(ticket)
        if ticket in self.inside:
            self.service.hear_crowd(len(self.inside))
            del self.inside[ticket]
            self._computed(ticket)
            self._count_departure()
        self.move()

    def hear_tokens(self, ticket: Ticket, tokens: int) -> None:
        """A request's tokens have come.

        Args:
            ticket: its ticket.
            tokens: how many.
        """
        if ticket.first_ms is None:
            ticket.first_ms = self._now_ms()
            self._computed(ticket)
            if ticket.completion.streams and self.stalls.awake_since(ticket.sent_ms, ticket.first_ms):
                self.service.hear_first_token(ticket.ahead_tokens, ticket.first_ms - ticket.sent_ms)
        ticket.spoken_tokens += tokens
        ticket.crowd += tokens * len(self.inside)

    def hear_answer(self, ticket: Ticket, output_tokens: int) -> None:
        """A request has said everything.

        Args:
            ticket: its ticket.
            output_tokens: what it said.
        """
        self.line.hear_output(output_tokens)
        now_ms, first_ms = self._now_ms(), ticket.first_ms
        if first_ms is None or output_tokens < 2 or not ticket.completion.streams:
            return
        if self.stalls.awake_since(first_ms, now_ms):
            self.service.hear_answer(ticket.crowd / ticket.spoken_tokens, (now_ms - first_ms) / (output_tokens - 1))

    def move(self) -> None:
        """Let go whoever may, and tell those no who can no longer be served in time."""
        limits = self._limits()
        self.line.order_by(limits.discipline or "fcfs")
        while (ticket := self.line.next()) is not None and self._room(limits):
            if not self._turned_away(ticket, limits):
                self._send(ticket)

    def sweep(self) -> None:
        """As `move`; those who wait without a chance are told no before their turn comes. Also the heartbeat."""
        self.stalls.beat(self._now_ms())
        limits = self._limits()
        for ticket in self.line:
            self._turned_away(ticket, limits)
        self.move()

    def predicted_ttft_ms(self, prompt_tokens: int) -> float:
        """Predicted time to first token of a request that were sent now; NaN while too little is known.

        Args:
            prompt_tokens: its prompt.
        """
        return self.service.first_token_ms(self._uncomputed_tokens + prompt_tokens)

    def retry_after_s(self) -> int:
        """When those who wait now will have gone, in whole seconds."""
        return min(max(math.ceil(len(self.line) * self._gap_ms / 1000.0), 1), LONGEST_RETRY_S)

    def _room(self, limits: Limits) -> bool:
        inside = len(self.inside)
        if inside >= limits.batch_size:
            return False
        return limits.step_target_ms is None or self.service.keeps_pace(inside + 1, limits.step_target_ms)

    def _turned_away(self, ticket: Ticket, limits: Limits) -> bool:
        if limits.ttft_guard is None:
            return False
        asked = ticket.completion
        now_ms = self._now_ms()
        waited_ms = now_ms - ticket.arrived_ms
        needs_ms = self.predicted_ttft_ms(asked.prompt_tokens)
        if math.isnan(needs_ms) or (not self.inside and now_ms - self._sent_ms >= TRIED_ANEW_MS):
            needs_ms = 0.0
        allowed_ms = limits.ttft_guard * asked.slo.ttft_ms
        if waited_ms + needs_ms <= allowed_ms:
            return False
        self.line.remove(ticket)
        reason = (
            f"waited {waited_ms:.0f} ms and would need {needs_ms:.0f} ms more to its first token; "
            f"{allowed_ms:.0f} ms are allowed"
        )
        if not ticket.turn.done():
            ticket.turn.set_result(RefusedError("refused_by_guard", reason, self.retry_after_s()))
        return True

    def _send(self, ticket: Ticket) -> None:
        self.line.remove(ticket)
        if ticket.turn.done():
            return
        self.inside[ticket] = self._uncomputed[ticket] = None
        self._uncomputed_tokens += ticket.completion.prompt_tokens
        ticket.sent_ms = self._sent_ms = self._now_ms()
        ticket.ahead_tokens = self._uncomputed_tokens
        ticket.turn.set_result(None)

    def _computed(self, ticket: Ticket) -> None:
        if ticket in self._uncomputed:
            del self._uncomputed[ticket]
            self._uncomputed_tokens -= ticket.completion.prompt_tokens

    def _count_departure(self) -> None:
        now_ms = self._now_ms()
        if self.line and not math.isnan(self._left_ms):
            self._gap_ms += (now_ms - self._left_ms - self._gap_ms) / 20.0
        self._left_ms = now_ms
