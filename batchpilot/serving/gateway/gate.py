"""The gate before the upstream: who may go, who waits, who is told no. Times in ms.

It holds what a gateway can hold of a tuner's limits: the concurrency, the queued tokens, the order, the TTFT guard, and
the step target as the largest concurrency whose time per token stays within it. A token budget belongs to steps, which
are the upstream's own. Nobody waits who can no longer be served in time: each ticket has a timer that looks.
"""

from __future__ import annotations

import asyncio
import math
from collections.abc import Callable, Iterator, Mapping

from batchpilot.core import Limits
from batchpilot.core.tenants import TenantTerms
from batchpilot.serving.gateway.backlog import Backlog
from batchpilot.serving.gateway.cache_room import CacheRoom
from batchpilot.serving.gateway.places import Places
from batchpilot.serving.gateway.service import Pace, ServiceModel
from batchpilot.serving.gateway.stalls import Stalls
from batchpilot.serving.gateway.waiting import RefusedError, Ticket, WaitingLine

LONGEST_RETRY_S = 30

SHORTEST_TIMER_MS = 1.0

TRIED_ANEW_MS = 1000.0
"""An upstream that has had nothing to do for so long gets a request whatever is predicted: it may have changed."""

TELLING_TOKENS = 8.0
"""An answer that has said so many tells how fast tokens come."""


class Gate:
    """Lets requests through one by one. Lives in one event loop.

    Args:
        limits: the limits in force.
        now_ms: the clock.
        cache_tokens: what the upstream's KV cache holds, None for unknown.
        terms: of tenants, by user; the others' are the ordinary ones.

    Attributes:
        line: who waits.
        inside: who is at the upstream, in order of going.
        texts: how many they have generated at once: what a batch size counts.
        service: what is predicted of the upstream.
        stalls: when nothing can be learned of it.
        cache: room in the upstream's KV cache.
    """

    def __init__(
        self,
        limits: Callable[[], Limits],
        now_ms: Callable[[], float],
        cache_tokens: int | None = None,
        terms: Mapping[str, TenantTerms] | None = None,
    ) -> None:
        self.line = WaitingLine(terms)
        self._places = Places(terms or {})
        self.inside: dict[Ticket, None] = {}
        self.texts = 0
        self.service = ServiceModel()
        self.stalls = Stalls()
        self.cache = CacheRoom(cache_tokens)
        self._limits, self._now_ms = limits, now_ms
        self._backlog = Backlog()
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
        self._order(limits)
        self.line.arrive(ticket)
        if limits.max_queued_tokens is not None:
            self._check_queue(ticket, limits, limits.max_queued_tokens)
        self.line.add(ticket)
        self.move()
        self._look_later(ticket, limits)
        refused = await ticket.turn
        if refused is not None:
            raise refused

    def leave(self, ticket: Ticket) -> None:
        """A ticket's request has ended, or waits no longer.

        Args:
            ticket: any ticket, once or again.
        """
        self._leave_line(ticket)
        if ticket in self.inside:
            self.service.hear_crowd(self.texts)
            del self.inside[ticket]
            self._places.give_back(ticket.completion.user)
            self.texts -= ticket.completion.choices
            self._backlog.computed(ticket)
            self.cache.leave(ticket)
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
            self._backlog.computed(ticket)
            if ticket.completion.streams and self.stalls.awake_since(ticket.sent_ms, ticket.first_ms):
                self.service.hear_first_token(ticket.ahead_tokens, ticket.first_ms - ticket.sent_ms)
        ticket.spoken_tokens += tokens
        ticket.crowd += tokens * self.texts

    def hear_answer(self, ticket: Ticket, output_tokens: int, texts: int = 1) -> None:
        """A request has said everything.

        Args:
            ticket: its ticket.
            output_tokens: what it said.
            texts: in how many texts.
        """
        each = output_tokens / texts
        self.line.hear_output(each)
        now_ms, first_ms = self._now_ms(), ticket.first_ms
        if first_ms is None or each < 2.0 or not ticket.completion.streams:
            return
        if self.stalls.awake_since(first_ms, now_ms):
            self.service.hear_answer(ticket.crowd / ticket.spoken_tokens, (now_ms - first_ms) / (each - 1.0))

    def hear_overflow(self) -> None:
        """The upstream has run out of room in its KV cache."""
        self.cache.hear_overflow(self.inside, self._now_ms())

    def move(self) -> None:
        """Let go whoever may, and tell those no who can no longer be served in time."""
        limits = self._limits()
        self._order(limits)
        while (ticket := self.line.next(self._places.taken)) is not None and self._room(ticket, limits):
            if not self._turned_away(ticket, limits):
                self._send(ticket)

    def sweep(self) -> None:
        """As `move`; those who wait without a chance are told no: limits and predictions change. Also the heartbeat."""
        self.stalls.beat(self._now_ms())
        limits = self._limits()
        for ticket in self.line:
            self._turned_away(ticket, limits)
        self.move()

    def turn_out(self, why: RefusedError) -> None:
        """Nobody waits here any longer.

        Args:
            why: what they are told.
        """
        for ticket in self.line:
            self._leave_line(ticket)
            if not ticket.turn.done():
                ticket.turn.set_result(why)

    def predicted_ttft_ms(self, prompt_tokens: int) -> float:
        """Predicted time to first token of a request that were sent now; NaN while too little is known.

        Args:
            prompt_tokens: its prompt.
        """
        return self.service.first_token_ms(self._backlog.tokens(self._now_ms()) + prompt_tokens)

    @property
    def queued_tokens(self) -> int:
        """Prompt tokens, waiting and at the upstream, of requests that have no first token yet."""
        return self.line.tokens + self._backlog.tokens(self._now_ms())

    @property
    def longest_silence_ms(self) -> float:
        """How long the oldest stream at the upstream has waited for its first token: no prediction knows it sooner."""
        silent = (ticket for ticket in self.inside if ticket.first_ms is None and ticket.completion.streams)
        oldest = next(silent, None)
        return 0.0 if oldest is None else self._now_ms() - oldest.sent_ms

    def retry_after_s(self) -> int:
        """When those who wait now will have gone, in whole seconds."""
        return min(max(math.ceil(len(self.line) * self._gap_ms / 1000.0), 1), LONGEST_RETRY_S)

    def _order(self, limits: Limits) -> None:
        self.line.bound_refusals(limits.refusal_bound)
        self.line.order_by(limits.discipline or "fcfs")

    def _check_queue(self, ticket: Ticket, limits: Limits, most: int) -> None:
        """Admit while the prompts of others are below the limit, as vLLM does.

        A prompt beyond the whole limit does not wait: behind it nobody else could.
        """
        queued, own = self.queued_tokens, ticket.completion.prompt_tokens
        at_ceiling = ticket.completion.user in self._places.taken
        must_wait = len(self.line) > 0 or at_ceiling or not self._room(ticket, limits)
        if queued >= most or (must_wait and own > most):
            reason = (
                f"{queued} prompt tokens are queued, {own} would be added; requests come in while it is below {most}"
            )
            self.line.decide(ticket, refused=True)
            raise RefusedError("refused_on_arrival", reason, self.retry_after_s())

    def _room(self, ticket: Ticket, limits: Limits) -> bool:
        if not self.inside:
            return True
        texts = self.texts + ticket.completion.choices
        if texts > limits.batch_size or not self.cache.fits(ticket.completion, self.line.usual_output_tokens):
            return False
        promised_ms = ticket.completion.slo.tpot_ms
        target_ms = limits.step_target_ms
        return target_ms is None or self.service.keeps_pace(texts, target_ms, promised_ms, self._speaking())

    def _speaking(self) -> Iterator[Pace]:
        """How answers fare that have not ended, once they have said enough to tell."""
        now_ms = self._now_ms()
        for ticket in self.inside:
            each = ticket.spoken_tokens / ticket.completion.choices
            if ticket.first_ms is not None and each >= TELLING_TOKENS:
                yield ticket.crowd / ticket.spoken_tokens, (now_ms - ticket.first_ms) / (each - 1.0)

    def _turned_away(self, ticket: Ticket, limits: Limits) -> bool:
        if limits.ttft_guard is None:
            return False
        waited_ms, needs_ms, allowed_ms = self._prospects(ticket, limits.ttft_guard)
        if waited_ms + needs_ms <= allowed_ms:
            return False
        self._leave_line(ticket)
        self.line.decide(ticket, refused=True)
        reason = (
            f"waited {waited_ms:.0f} ms and would need {needs_ms:.0f} ms more to its first token; "
            f"{allowed_ms:.0f} ms are allowed"
        )
        if not ticket.turn.done():
            ticket.turn.set_result(RefusedError("refused_by_guard", reason, self.retry_after_s()))
        return True

    def _prospects(self, ticket: Ticket, guard: float) -> tuple[float, float, float]:
        """How long a ticket has waited, would need once it went, and may take."""
        now_ms, asked = self._now_ms(), ticket.completion
        needs_ms = self.predicted_ttft_ms(asked.prompt_tokens)
        if math.isnan(needs_ms) or (not self.inside and now_ms - self._sent_ms >= TRIED_ANEW_MS):
            needs_ms = 0.0
        return now_ms - ticket.arrived_ms, needs_ms, guard * asked.slo.ttft_ms

    def _look_later(self, ticket: Ticket, limits: Limits) -> None:
        """Look again when a ticket that waits will have become hopeless, as far as is known now."""
        if limits.ttft_guard is None or not self.line.holds(ticket):
            return
        waited_ms, needs_ms, allowed_ms = self._prospects(ticket, limits.ttft_guard)
        left_ms = max(allowed_ms - waited_ms - needs_ms, SHORTEST_TIMER_MS)
        if math.isfinite(left_ms):
            ticket.timer = asyncio.get_running_loop().call_later(left_ms / 1000.0, self._look, ticket)

    def _look(self, ticket: Ticket) -> None:
        limits = self._limits()
        if self.line.holds(ticket) and not self._turned_away(ticket, limits):
            self._look_later(ticket, limits)

    def _leave_line(self, ticket: Ticket) -> None:
        self.line.remove(ticket)
        if ticket.timer is not None:
            ticket.timer.cancel()
            ticket.timer = None

    def _send(self, ticket: Ticket) -> None:
        self._leave_line(ticket)
        if ticket.turn.done():
            return
        self.line.decide(ticket, refused=False)
        asked, now_ms = ticket.completion, self._now_ms()
        self.inside[ticket] = None
        self._places.take(asked.user)
        self.cache.enter(ticket, self.line.usual_output_tokens)
        self.texts += asked.choices
        ticket.sent_ms = self._sent_ms = now_ms
        ticket.ahead_tokens = self._backlog.tokens(now_ms) + asked.prompt_tokens
        unseen_ms = 0.0 if asked.streams else self.service.first_token_ms(asked.prompt_tokens)
        self._backlog.add(ticket, math.inf if asked.streams else now_ms + unseen_ms)
        ticket.turn.set_result(None)

    def _count_departure(self) -> None:
        now_ms = self._now_ms()
        if self.line and not math.isnan(self._left_ms):
            self._gap_ms += (now_ms - self._left_ms - self._gap_ms) / 20.0
        self._left_ms = now_ms
