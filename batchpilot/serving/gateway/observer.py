"""What the gateway tells a tuner's session, and counts for people. Times in ms."""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Callable

from batchpilot.core import SLO
from batchpilot.serving.answers import AnswerReader
from batchpilot.serving.gateway.answers import INVALID, UNREAD
from batchpilot.serving.gateway.completions import Completion, unstreamed_slo
from batchpilot.serving.gateway.figures import Figures
from batchpilot.serving.gateway.gate import Gate
from batchpilot.serving.gateway.late_log import LateLog
from batchpilot.serving.gateway.steps import SeenStep, StepWatcher
from batchpilot.serving.gateway.waiting import Ticket
from batchpilot.serving.outcomes import FAILED, SERVED, is_out_of_room
from batchpilot.serving.session.session import TunerSession

_SEVERAL, _FEWEST_EVENTS, _REMEMBERED = 1.2, 20.0, 2000.0
"""Events hold several tokens when answers had so many for each of so many events, the last ones counting most."""


class Observer:
    """Turns what passes the gateway into the events of a session.

    Args:
        session: of the tuner.
        gate: learns from the same events.
        record: hears each step, None for nobody.
        late_log: hears of each request that was late or failed, None for nobody.
        upstream: name of the upstream in that log.

    Attributes:
        ended: requests by how they ended.
        figures: how long they took.
        last_fault: why the last one failed.
        output_tokens: of all requests.
        arrived_requests: how many have come.
        arrived_tokens: their prompts and expected outputs.
        kv_used_fraction: as the upstream last said, None where it does not.
    """

    def __init__(
        self,
        session: TunerSession,
        gate: Gate,
        record: Callable[[SeenStep], None] | None = None,
        late_log: LateLog | None = None,
        upstream: str = "",
    ) -> None:
        self.ended: Counter[str] = Counter()
        self.figures = Figures()
        self.last_fault: str | None = None
        self.output_tokens = 0
        self.arrived_requests = 0
        self.arrived_tokens = 0.0
        self.kv_used_fraction: float | None = None
        self._session, self._gate, self._record = session, gate, record
        self._late_log, self._upstream = late_log, upstream
        self._steps = StepWatcher()
        self._events = self._event_tokens = 0.0

    @property
    def tokens_per_event(self) -> float:
        """Output tokens in an event of a stream, by what answers had in all; 1 unless they plainly held several."""
        several = self._events >= _FEWEST_EVENTS and self._event_tokens >= _SEVERAL * self._events
        return self._event_tokens / self._events if several else 1.0

    def arrived(self, ticket: Ticket) -> None:
        """A request has come.

        Args:
            ticket: its ticket.
        """
        asked = ticket.completion
        slo = self._promise(asked)
        self.arrived_requests += 1
        self.arrived_tokens += asked.prompt_tokens + asked.choices * asked.output_tokens(self._usual_output_tokens)
        self._session.on_arrival(
            ticket.number, asked.prompt_tokens, ttft_target_ms=slo.ttft_ms, tpot_target_ms=slo.tpot_ms
        )

    def sent(self, ticket: Ticket) -> None:
        """A request has gone to the upstream.

        Args:
            ticket: its ticket.
        """
        self._session.on_start(ticket.number)
        asked = ticket.completion
        self._steps.sent(
            ticket.number, asked.prompt_tokens, self._session.now_ms, texts=asked.choices, streams=asked.streams
        )

    def spoke(self, ticket: Ticket, tokens: int, events: int = 1) -> None:
        """Tokens have come.

        Args:
            ticket: whose.
            tokens: how many, >= 1.
            events: in how many parts.
        """
        first = ticket.first_ms is None
        step = self._steps.spoke(ticket.number, tokens, first=first, now_ms=self._session.now_ms, events=events)
        if step is not None:
            self._tell(step)
        self.output_tokens += tokens
        self._session.on_tokens(ticket.number, tokens)
        self._gate.hear_tokens(ticket, tokens)

    def judged(self, ticket: Ticket, outcome: str, reader: AnswerReader, why: str = "") -> None:
        """An answer has ended and been judged.

        Args:
            ticket: whose.
            outcome: as `PassingAnswer.ended` says.
            reader: what it said.
            why: for people.
        """
        if outcome == SERVED:
            self._finished(ticket, reader)
        elif outcome in (INVALID, UNREAD):
            self.cancelled(ticket, outcome)
        elif outcome == FAILED:
            self.failed(ticket, why)
        else:
            if is_out_of_room(why):
                self._gate.hear_overflow()
            self.refused(ticket, "refused_on_arrival", "refused_upstream")

    def refused(self, ticket: Ticket, code: str, where: str | None = None) -> None:
        """A request was told no.

        Args:
            ticket: which.
            code: `refused_on_arrival` or `refused_by_guard`.
            where: what it is counted as, None for the code: `refused_upstream` where it was not the gate.
        """
        if self._ends(ticket, where or code):
            self.figures.refused(self._session.now_ms - ticket.arrived_ms)
            self._session.on_reject(ticket.number, code)

    def failed(self, ticket: Ticket, why: str) -> None:
        """The upstream failed a request.

        Args:
            ticket: which.
            why: for people.
        """
        if self._ends(ticket, "failed"):
            self.last_fault = why
            self.figures.failed(self._session.now_ms - ticket.arrived_ms)
            self._session.on_failure(ticket.number)
            if self._late_log is not None:
                self._late_log.failed(ticket, why, self._upstream)

    def cancelled(self, ticket: Ticket, how: str = "cancelled") -> None:
        """A request was neither served nor missed: its client left, or asked for something that cannot be.

        Args:
            ticket: which; one that has ended already is not counted again.
            how: `cancelled`, `INVALID` or `UNREAD`.
        """
        if self._ends(ticket, how):
            self._session.on_cancel(ticket.number)

    def _finished(self, ticket: Ticket, reader: AnswerReader) -> None:
        if not self._ends(ticket, "finished"):
            return
        # An answer without text took one token all the same: the one that ended it, or that nobody wanted to see.
        now_ms, tokens, texts = self._session.now_ms, max(reader.tokens, 1), reader.choices
        generates = ticket.completion.max_tokens != 0
        if generates:
            self.output_tokens += max(tokens - ticket.spoken_tokens, 0)
            self._gate.hear_answer(ticket, tokens, texts)
        if ticket.first_ms is not None:
            faded = math.exp(-reader.events / _REMEMBERED)
            self._events = self._events * faded + reader.events
            self._event_tokens = self._event_tokens * faded + tokens
        self._session.on_finish(ticket.number, tokens, texts=texts)
        slo = self._promise(ticket.completion)
        first_ms = now_ms if ticket.first_ms is None else ticket.first_ms
        ttft_ms, apart = first_ms - ticket.arrived_ms, tokens / texts - 1.0
        tpot_ms = (now_ms - first_ms) / apart if apart > 0.0 and ticket.first_ms is not None else math.nan
        ticket.kept = ttft_ms <= slo.ttft_ms and not tpot_ms > slo.tpot_ms
        self.figures.served(ttft_ms, tpot_ms, now_ms - ticket.arrived_ms, kept=ticket.kept)
        if self._late_log is not None and not ticket.kept:
            said = tokens if generates else 0
            self._late_log.late(ticket, slo, ttft_ms, tpot_ms, said, self._upstream)

    def _ends(self, ticket: Ticket, how: str) -> bool:
        """Count an end once; whether this is the first."""
        if ticket.ended:
            return False
        ticket.ended = how
        self.ended[how] += 1
        step = self._steps.ended(ticket.number)
        if step is not None:
            self._tell(step)
        return True

    def _tell(self, step: SeenStep) -> None:
        now_ms = self._session.now_ms
        if not self._gate.stalls.awake_since(now_ms - step.duration_ms, now_ms):
            return
        if self._record is not None:
            self._record(step)
        self._gate.service.hear_step(step.batch_size, step.duration_ms)
        self._session.on_step(
            step.batch_size,
            step.tokens,
            step.context_tokens,
            step.duration_ms,
            kv_used_fraction=self.kv_used_fraction,
        )

    @property
    def _usual_output_tokens(self) -> float:
        return self._gate.line.usual_output_tokens

    def _promise(self, asked: Completion) -> SLO:
        expected = asked.output_tokens(self._usual_output_tokens)
        return asked.slo if asked.streams else unstreamed_slo(asked.slo, expected)
