"""Who waits at the gateway, and who is next. Times in ms."""

from __future__ import annotations

import asyncio
import heapq
import itertools
from collections.abc import Collection, Iterator, Mapping
from dataclasses import dataclass

from batchpilot.core.limits import DEADLINE_MS_PER_TOKEN
from batchpilot.core.refusals import BOUNDED, PROMOTED, RefusedShares
from batchpilot.core.tenants import ORDINARY, TenantTerms
from batchpilot.serving.gateway.completions import Completion

FIRST_OUTPUT_TOKENS = 128.0
"""What an output is taken to have before any has been seen, where its request does not say."""


MOVED = "moved"
"""Code of a refusal that no client sees: the upstream fell ill, and who waits goes to another one."""


class RefusedError(Exception):
    """A request that is not sent to the upstream.

    Args:
        code: short name of the reason: `refused_on_arrival` or `refused_by_guard`.
        reason: for people.
        retry_after_s: when to come again.
    """

    def __init__(self, code: str, reason: str, retry_after_s: int) -> None:
        super().__init__(reason)
        self.code, self.reason, self.retry_after_s = code, reason, retry_after_s


@dataclass(eq=False, slots=True)
class Ticket:
    """One request on its way through the gateway.

    Attributes:
        number: its id.
        completion: what it asks for.
        arrived_ms: when it came.
        turn: None when it may go, else why it may not.
        sent_ms: when it went to the upstream.
        ahead_tokens: prompt tokens at the upstream without a first token when it went, its own included.
        first_ms: when its first token came, None before.
        spoken_tokens: output tokens that were seen to come.
        crowd: requests at the upstream, summed over those tokens.
        ended: how it ended, "" before.
        kept: whether its promise was.
        timer: looks whether it has become hopeless, while it waits.
    """

    number: int
    completion: Completion
    arrived_ms: float
    turn: asyncio.Future[RefusedError | None]
    sent_ms: float = 0.0
    ahead_tokens: int = 0
    first_ms: float | None = None
    spoken_tokens: int = 0
    crowd: int = 0
    ended: str = ""
    kept: bool = False
    timer: asyncio.TimerHandle | None = None


class WaitingLine:
    """Tickets in the order of a discipline, as the scheduler's: see `batchpilot.core.limits.DISCIPLINES`.

    Under `deadline` too the guard refuses: a client that hears of it can go elsewhere, which is better than the end of
    a line.

    Args:
        terms: of tenants, by user: their weights under `fair`.

    Attributes:
        tokens: prompt tokens that wait.
        refused: what it knows of refusals while they are bounded.
    """

    def __init__(self, terms: Mapping[str, TenantTerms] | None = None) -> None:
        self.tokens = 0
        self._terms = terms or {}
        self._discipline = "fcfs"
        self._bound: float | None = None
        self.refused = RefusedShares()
        self._heap: list[tuple[float, int, Ticket]] = []
        self._count = itertools.count()
        self._inside: dict[Ticket, None] = {}
        self._virtual = 0.0
        self._user_until: dict[str, float] = {}
        self._outputs = FIRST_OUTPUT_TOKENS

    def __len__(self) -> int:
        return len(self._inside)

    def __iter__(self) -> Iterator[Ticket]:
        return iter(list(self._inside))

    def holds(self, ticket: Ticket) -> bool:
        """Whether a ticket waits.

        Args:
            ticket: any.
        """
        return ticket in self._inside

    def order_by(self, discipline: str) -> None:
        """Another discipline from now on; those who wait are put in its order.

        Args:
            discipline: one of `DISCIPLINES`.
        """
        if discipline != self._discipline:
            self._discipline = discipline
            self._heap = [(self._key(ticket), next(self._count), ticket) for ticket in self._inside]
            heapq.heapify(self._heap)

    def bound_refusals(self, bound: float | None) -> None:
        """Whose quarter of prompt lengths is refused by more than a bound beyond all goes first when it comes.

        Args:
            bound: `Limits.refusal_bound`.
        """
        self._bound = bound

    def arrive(self, ticket: Ticket) -> None:
        """A request has come, whatever becomes of it.

        Args:
            ticket: its ticket.
        """
        if self._bound is not None:
            self.refused.arrive(ticket.completion.prompt_tokens)

    def decide(self, ticket: Ticket, *, refused: bool) -> None:
        """A request goes to the upstream, or is refused.

        Args:
            ticket: its ticket.
            refused: which of both.
        """
        if self._bound is not None:
            self.refused.decide(ticket.completion.prompt_tokens, refused)

    def add(self, ticket: Ticket) -> None:
        """A ticket begins to wait.

        Args:
            ticket: which.
        """
        self._inside[ticket] = None
        self.tokens += ticket.completion.prompt_tokens
        heapq.heappush(self._heap, (self._key(ticket), next(self._count), ticket))

    def remove(self, ticket: Ticket) -> bool:
        """A ticket waits no longer.

        Args:
            ticket: which.

        Returns:
            Whether it did wait.
        """
        if ticket not in self._inside:
            return False
        del self._inside[ticket]
        self.tokens -= ticket.completion.prompt_tokens
        return True

    def next(self, held: Collection[str] = ()) -> Ticket | None:
        """Who is next, still waiting; None when nobody waits who may go.

        Args:
            held: users whose turn it is not.
        """
        passed = []
        while self._heap:
            _, _, ticket = first = self._heap[0]
            if ticket in self._inside and ticket.completion.user not in held:
                break
            heapq.heappop(self._heap)
            if ticket in self._inside:
                passed.append(first)
        found = self._heap[0] if self._heap else None
        for entry in passed:
            heapq.heappush(self._heap, entry)
        if not self._heap:
            self._user_until.clear()
        if found is None:
            return None
        if self._discipline == "fair":
            self._virtual = max(self._virtual, found[0])
        return found[2]

    def hear_output(self, tokens: float) -> None:
        """The length of an output, for the disciplines that guess it where a request does not say.

        Args:
            tokens: how many.
        """
        self._outputs += (tokens - self._outputs) / 50.0

    @property
    def usual_output_tokens(self) -> float:
        """Recent outputs' length, fading."""
        return self._outputs

    def _key(self, ticket: Ticket) -> float:
        key = self._key_of_discipline(ticket)
        if self._bound is None or self._discipline not in BOUNDED:
            return key
        return key - PROMOTED * self.refused.goes_first(ticket.completion.prompt_tokens, self._bound)

    def _key_of_discipline(self, ticket: Ticket) -> float:
        asked = ticket.completion
        output = asked.output_tokens(self._outputs)
        match self._discipline:
            case "sjf":
                return output
            case "spf":
                return float(asked.prompt_tokens)
            case "slo":
                return ticket.arrived_ms + asked.slo.ttft_ms
            case "deadline":
                return ticket.arrived_ms + asked.slo.ttft_ms + DEADLINE_MS_PER_TOKEN * asked.prompt_tokens
            case "fair":
                start = max(self._virtual, self._user_until.get(asked.user, 0.0))
                weight = self._terms.get(asked.user, ORDINARY).weight
                self._user_until[asked.user] = start + (asked.prompt_tokens + output) / weight
                return start
            case "value":
                return asked.prompt_tokens / max(output, 1.0)
            case "priority" | "vision":
                return asked.priority * 1e12 + ticket.arrived_ms
            case _:
                return ticket.arrived_ms
