"""Ray Serve: `@tuned_batch` is `@serve.batch` with a tuner that sets its batch size and wait. Times in ms.

    class Model:
        @tuned_batch(partial(batch_session, "hybrid"), slo=SLO(ttft_ms=200.0))
        async def __call__(self, inputs: list[str]) -> list[str]: ...

Each replica has a session, and so a tuner, of its own.
"""

from __future__ import annotations

import asyncio
import itertools
import time
from collections.abc import Awaitable, Callable
from dataclasses import dataclass
from functools import wraps
from typing import Any

from batchpilot.core import SLO, Limits
from batchpilot.core.extras import needing
from batchpilot.serving.adapters.batches import BatchReports, SessionFactory
from batchpilot.serving.adapters.gate import BatchGate
from batchpilot.serving.adapters.versions import check_version

with needing("the Ray Serve adapter", "ray"):
    import ray
    from ray import serve

check_version("ray", ray.__version__)

Handler = Callable[..., Awaitable[list[Any]]]
"""An async function, or method, from a list of inputs to as many answers."""


@dataclass(slots=True)
class _Ticket:
    """A call on its way through the queue of `serve.batch`; its owner is the instance if the handler is a method."""

    number: int
    owner: tuple[Any, ...]
    item: Any
    size: int
    started: bool = False


class _Tuned:
    """A batching function with its setters, and the session made on the first call in a replica.

    It is pickled with the deployment, before there is a session.
    """

    def __init__(self, handler: Handler, make_session: SessionFactory, slo: SLO, size: Callable[[Any], int]) -> None:
        self.handler, self.size = handler, size
        self._make_session, self._slo = make_session, slo
        self._reports: BatchReports | None = None
        self._applied: Limits | None = None
        self._numbers = itertools.count()
        self.gate = BatchGate()

    @property
    def reports(self) -> BatchReports:
        """The replica's reports."""
        if self._reports is None:
            self._reports = BatchReports(self._make_session(), self._slo)
        return self._reports

    def ticket(self, owner: tuple[Any, ...], item: Any) -> _Ticket:
        """A call's ticket; its arrival is told."""
        ticket = _Ticket(next(self._numbers), owner, item, self.size(item))
        self.reports.arrived(ticket.number, ticket.size)
        return ticket

    async def through(self, batched: Any, ticket: _Ticket) -> Any:
        """A call's answer, once its turn has come."""
        await self.gate.enter()
        try:
            return await batched(ticket)
        except asyncio.CancelledError:
            if not ticket.started:
                self.gate.leave()
            raise

    async def run(self, tickets: list[_Ticket]) -> list[Any]:
        """Run a batch and tell how it went."""
        numbers = [ticket.number for ticket in tickets]
        for ticket in tickets:
            ticket.started = True
        self.gate.begin()
        size = sum(ticket.size for ticket in tickets)
        self.reports.started(numbers)
        began = time.perf_counter()
        end = self.reports.failed
        try:
            answers = await self.handler(*tickets[0].owner, [ticket.item for ticket in tickets])
            end = self.reports.answered
        finally:
            for number in numbers:
                end(number)
            duration_ms = 1000.0 * (time.perf_counter() - began)
            self.reports.ended(len(tickets), size, duration_ms, failed=end == self.reports.failed)
            self.gate.end(len(tickets))
        return answers

    def apply_to(self, batched: Any) -> None:
        """Set `serve.batch` to the limits, when they have changed: each setting makes it check and perhaps warn."""
        limits = self.reports.limits()
        if limits == self._applied:
            return
        self._applied = limits
        self.gate.room = limits.batch_size
        batched.set_max_batch_size(limits.batch_size)
        if limits.max_wait_ms is not None:
            batched.set_batch_wait_timeout_s(limits.max_wait_ms / 1000.0)


def tuned_batch(
    make_session: SessionFactory,
    *,
    slo: SLO | None = None,
    max_batch_size: int = 8,
    batch_wait_timeout_s: float = 0.01,
    size: Callable[[Any], int] = lambda item: 1,
) -> Callable[[Handler], Callable[..., Awaitable[Any]]]:
    """`serve.batch` whose batch size, and wait where the tuner sets one, follow a tuner from batch to batch.

    The decorated function is called with one input and returns its answer. It has the setters of `serve.batch`, and
    `session()` for whoever wants to look at the replica's session. `max_ongoing_requests` of the deployment must be at
    least the largest batch that the tuner may ask for, or batches never get that large.

    Args:
        make_session: makes the replica's session; it is pickled with the deployment.
        slo: the promise to a caller, its `ttft_ms` the time from call to answer; None for none.
        max_batch_size: before the tuner's first limits.
        batch_wait_timeout_s: likewise, and for good with a tuner that sets no `max_wait_ms`.
        size: an input's work in tokens, for tuners that look at tokens.

    Returns:
        A decorator for an async function or method from a list of inputs to a list of answers.
    """
    promise = slo or SLO(ttft_ms=float("inf"), tpot_ms=float("inf"), name="none")

    def decorate(handler: Handler) -> Callable[..., Awaitable[Any]]:
        tuned = _Tuned(handler, make_session, promise, size)

        async def batch(tickets: list[_Ticket]) -> list[Any]:
            answers = await tuned.run(tickets)
            tuned.apply_to(batched)
            return answers

        batch.__name__ = handler.__name__  # Ray's metrics go by it
        batched = serve.batch(max_batch_size=max_batch_size, batch_wait_timeout_s=batch_wait_timeout_s)(batch)

        @wraps(handler)
        async def call(*arguments: Any) -> Any:
            *owner, item = arguments
            ticket = tuned.ticket(tuple(owner), item)
            tuned.apply_to(batched)
            try:
                return await tuned.through(batched, ticket)
            except asyncio.CancelledError:
                tuned.reports.cancelled(ticket.number)
                raise

        for setter in ("set_max_batch_size", "set_batch_wait_timeout_s"):
            setattr(call, setter, getattr(batched, setter))
        call.session = lambda: tuned.reports.session  # type: ignore[attr-defined]
        return call

    return decorate
