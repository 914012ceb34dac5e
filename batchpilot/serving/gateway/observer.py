"""What the gateway tells a tuner's session, and counts for people. Times in ms."""

from __future__ import annotations

from collections import Counter

from batchpilot.serving.gateway.completions import Completion, unstreamed_slo
from batchpilot.serving.gateway.gate import Gate
from batchpilot.serving.gateway.steps import SeenStep, StepWatcher
from batchpilot.serving.gateway.waiting import Ticket
from batchpilot.serving.session.session import TunerSession


class Observer:
    """Turns what passes the gateway into the events of a session.

    Args:
        session: of the tuner.
        gate: learns from the same events.

    Attributes:
        ended: requests by how they ended.
        output_tokens: of all requests.
        kv_used_fraction: as the upstream last said, None where it does not.
    """

    def __init__(self, session: TunerSession, gate: Gate) -> None:
        self.ended: Counter[str] = Counter()
        self.output_tokens = 0
        self.kv_used_fraction: float | None = None
        self._session, self._gate = session, gate
        self._steps = StepWatcher()

    def arrived(self, ticket: Ticket) -> None:
        """A request has come.

        Args:
            ticket: its ticket.
        """
        asked = ticket.completion
        slo = asked.slo if asked.streams else unstreamed_slo(asked.slo, self._expected_output(asked))
        self._session.on_arrival(
            ticket.number, asked.prompt_tokens, ttft_target_ms=slo.ttft_ms, tpot_target_ms=slo.tpot_ms
        )

    def sent(self, ticket: Ticket) -> None:
        """A request has gone to the upstream.

        Args:
            ticket: its ticket.
        """
        self._session.on_start(ticket.number)
        self._steps.sent(ticket.number, ticket.completion.prompt_tokens, self._session.now_ms)

    def spoke(self, ticket: Ticket, tokens: int) -> None:
        """Tokens have come.

        Args:
            ticket: whose.
            tokens: how many, >= 1.
        """
        first = ticket.first_ms is None
        step = self._steps.spoke(ticket.number, tokens, first=first, now_ms=self._session.now_ms)
        if step is not None:
            self._tell(step)
        self.output_tokens += tokens
        self._session.on_tokens(ticket.number, tokens)
        self._gate.hear_tokens(ticket, tokens)

    def finished(self, ticket: Ticket, output_tokens: int) -> None:
        """A request has said everything.

        Args:
            ticket: which.
            output_tokens: what it said in all.
        """
        if self._ends(ticket, "finished"):
            self.output_tokens += max(output_tokens - ticket.spoken_tokens, 0)
            self._gate.hear_answer(ticket, output_tokens)
            self._session.on_finish(ticket.number, output_tokens)

    def refused(self, ticket: Ticket, code: str) -> None:
        """A request was told no at the gate.

        Args:
            ticket: which.
            code: `refused_on_arrival` or `refused_by_guard`.
        """
        if self._ends(ticket, code):
            self._session.on_reject(ticket.number, code)

    def refused_upstream(self, ticket: Ticket) -> None:
        """The upstream told a request to come again later.

        Args:
            ticket: which.
        """
        if self._ends(ticket, "refused_upstream"):
            self._session.on_reject(ticket.number, "refused_on_arrival")

    def failed(self, ticket: Ticket) -> None:
        """The upstream failed a request.

        Args:
            ticket: which.
        """
        if self._ends(ticket, "failed"):
            self._session.on_failure(ticket.number)

    def cancelled(self, ticket: Ticket, how: str = "cancelled") -> None:
        """A request was neither served nor missed: its client left, or asked for something that cannot be.

        Args:
            ticket: which; one that has ended already is not counted again.
            how: `cancelled` or `invalid`.
        """
        if self._ends(ticket, how):
            self._session.on_cancel(ticket.number)

    def _ends(self, ticket: Ticket, how: str) -> bool:
        """Count an end once; whether this is the first."""
        if ticket.ended:
            return False
        ticket.ended = True
        self.ended[how] += 1
        step = self._steps.ended(ticket.number)
        if step is not None:
            self._tell(step)
        return True

    def _tell(self, step: SeenStep) -> None:
        now_ms = self._session.now_ms
        if not self._gate.stalls.awake_since(now_ms - step.duration_ms, now_ms):
            return
        self._gate.service.hear_step(step.batch_size, step.duration_ms)
        self._session.on_step(
            step.batch_size,
            step.tokens,
            step.context_tokens,
            step.duration_ms,
            kv_used_fraction=self.kv_used_fraction,
        )

    def _expected_output(self, asked: Completion) -> float:
        usual = self._gate.line.usual_output_tokens
        return float(asked.max_tokens or usual)
