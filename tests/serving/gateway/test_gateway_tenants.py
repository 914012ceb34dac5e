"""Tenants at the gateway: ceilings of what is at the upstream, weights of the fair order. Needs no HTTP."""

import asyncio

import pytest

from batchpilot import Limits
from batchpilot.core import SLO
from batchpilot.core.tenants import TenantTerms
from batchpilot.serving.gateway.completions import Completion
from batchpilot.serving.gateway.gate import Gate
from batchpilot.serving.gateway.waiting import RefusedError, Ticket


class Door:
    """A gate with tenants, on a clock that stands."""

    def __init__(self, terms, **limits):
        self.gate = Gate(lambda: Limits(**limits), lambda: 0.0, None, terms)
        self.tickets = []

    async def come(self, user, prompt_tokens=10):
        turn = asyncio.get_running_loop().create_future()
        completion = Completion(prompt_tokens, True, 10, SLO(1000.0, 50.0), user=user)
        ticket = Ticket(len(self.tickets), completion, 0.0, turn)
        self.tickets.append((ticket, asyncio.ensure_future(self.gate.pass_through(ticket))))
        await asyncio.sleep(0)
        return ticket

    @property
    def inside(self):
        return [ticket.completion.user for ticket in self.gate.inside]

    async def close(self):
        for ticket, task in self.tickets:
            self.gate.leave(ticket)
            task.cancel()
        await asyncio.gather(*(task for _, task in self.tickets), return_exceptions=True)


def test_who_is_at_its_ceiling_waits_while_others_pass():
    async def run():
        door = Door({"a": TenantTerms(max_running=2)}, batch_size=8)
        first = await door.come("a")
        for user in ("a", "a", "b", "a", "b"):
            await door.come(user)
        assert door.inside == ["a", "a", "b", "b"]
        door.gate.leave(first)
        door.gate.leave(first)
        assert door.inside == ["a", "b", "b", "a"], "a place that is given back twice is one place"
        await door.close()
        assert door.inside == []
        assert not door.gate._places.taken

    asyncio.run(run())


def test_a_ceiling_leaves_the_order_of_who_waits_as_it_was():
    async def run():
        door = Door({"a": TenantTerms(max_running=1)}, batch_size=2, discipline="spf")
        sent = [await door.come(user, tokens) for user, tokens in (("a", 5), ("b", 5), ("a", 30), ("a", 20), ("b", 90))]
        assert door.inside == ["a", "b"]
        door.gate.leave(sent[1])
        assert list(door.gate.inside) == [sent[0], sent[4]], "both of a wait, so the longest of b goes"
        door.gate.leave(sent[0])
        assert list(door.gate.inside) == [sent[4], sent[3]]
        await door.close()

    asyncio.run(run())


def test_a_request_that_must_wait_for_its_ceiling_is_refused_by_the_queue_limit():
    async def run():
        door = Door({"a": TenantTerms(max_running=1)}, batch_size=8, max_queued_tokens=50)
        await door.come("a")
        await door.come("a", prompt_tokens=60)
        with pytest.raises(RefusedError, match="prompt tokens are queued"):
            await door.tickets[1][1]
        await door.come("b", prompt_tokens=60)
        assert door.inside == ["a", "b"]
        await door.close()

    asyncio.run(run())


def test_turns_under_fair_are_as_weights():
    async def run():
        door = Door({"a": TenantTerms(weight=3.0)}, batch_size=1, discipline="fair")
        for _ in range(12):
            await door.come("a")
            await door.come("b")
        order = []
        while door.gate.inside:
            ticket = next(iter(door.gate.inside))
            order.append(ticket.completion.user)
            door.gate.leave(ticket)
        assert order[:12].count("a") == pytest.approx(9, abs=1)
        assert len(order) == 24
        await door.close()

    asyncio.run(run())
