"""An upstream that fails its requests when its KV cache is full: the gate keeps what is in flight below that."""

import asyncio

import pytest

from batchpilot.core import SLO, Limits
from batchpilot.serving.answers import AnswerReader
from batchpilot.serving.gateway.completions import Completion
from batchpilot.serving.gateway.gate import Gate
from batchpilot.serving.gateway.observer import Observer
from batchpilot.serving.gateway.settings import GatewaySettings
from batchpilot.serving.gateway.waiting import Ticket
from batchpilot.serving.outcomes import REFUSED, SERVED
from batchpilot.serving.session.session import TunerSession
from batchpilot.tuners import make_tuner

TOLD = '500: {"error":{"code":500,"message":"Context size has been exceeded.","type":"server_error"}}'


class Door:
    """A gate of 64 requests on a clock of its own, and what observes it."""

    def __init__(self, cache_tokens=None):
        self.now_s = 0.0
        session = TunerSession(make_tuner("static-64"), clock=lambda: self.now_s)
        self.gate = Gate(lambda: Limits(64), lambda: 1000.0 * self.now_s, cache_tokens)
        self.observer = Observer(session, self.gate)

    async def come(self, number, prompt_tokens=100, **asked):
        """A request comes; its ticket."""
        completion = Completion(prompt_tokens, True, asked.pop("max_tokens", 50), SLO(), **asked)
        ticket = Ticket(number, completion, 0.0, asyncio.get_running_loop().create_future())
        self.task = asyncio.ensure_future(self.gate.pass_through(ticket))
        await asyncio.sleep(0)
        return ticket

    def fails(self, ticket):
        """The upstream has run out of room."""
        self.observer.judged(ticket, REFUSED, AnswerReader(), TOLD)
        self.gate.leave(ticket)


def test_requests_wait_while_prompts_and_asked_outputs_would_not_fit():
    async def run():
        door = Door(cache_tokens=320)
        first, second = [await door.come(number) for number in range(2)]
        third = await door.come(2)
        assert set(door.gate.inside) == {first, second}
        door.gate.leave(first)
        await asyncio.sleep(0)
        assert set(door.gate.inside) == {second, third}

    asyncio.run(run())


def test_several_texts_of_a_request_take_as_many_contexts():
    async def run():
        door = Door(cache_tokens=500)
        for number, choices in enumerate((1, 3)):
            await door.come(number, choices=choices)
        assert len(door.gate.inside) == 1

    asyncio.run(run())


def test_a_request_for_no_output_takes_its_prompt_alone():
    async def run():
        door = Door(cache_tokens=250)
        for number, most in enumerate((50, 0)):
            await door.come(number, max_tokens=most)
        assert len(door.gate.inside) == 2

    asyncio.run(run())


def test_an_answer_of_no_output_teaches_nothing_about_those_who_do_not_say():
    async def run():
        door = Door()
        usual = door.gate.line.usual_output_tokens
        for number, most in enumerate((0, 50)):
            ticket = await door.come(number, max_tokens=most)
            reader = AnswerReader(streams=False, most=most)
            reader.hear(b'{"choices": [{"text": "a prompt", "finish_reason": "length"}]}')
            reader.end()
            door.observer.judged(ticket, SERVED, reader)
            door.gate.leave(ticket)
            assert (door.gate.line.usual_output_tokens == usual) == (most == 0)
        assert door.observer.ended == {"finished": 2}
        assert door.observer.output_tokens == 2, "the prompt is counted by its text where that may be an output"

    asyncio.run(run())


def test_one_that_can_never_fit_goes_alone_and_hears_it_from_the_upstream():
    async def run():
        door = Door(cache_tokens=320)
        ticket = await door.come(0, prompt_tokens=1000)
        assert ticket in door.gate.inside

    asyncio.run(run())


def test_a_size_nobody_told_is_learned_from_the_first_overflow_and_no_less_from_its_echoes():
    async def run():
        door = Door()
        tickets = [await door.come(number) for number in range(8)]
        for ticket in tickets:
            door.gate.hear_tokens(ticket, 20)
        for ticket in tickets:
            door.fails(ticket)
        assert door.gate.cache.capacity_tokens == pytest.approx(0.95 * 8 * 120)
        assert door.observer.ended == {"refused_upstream": 8}
        for number in range(8):
            await door.come(10 + number)
        assert len(door.gate.inside) == 6  # of 150 tokens each in 912

    asyncio.run(run())


def test_a_second_overflow_lowers_what_was_learned():
    async def run():
        door = Door()
        for size in (8, 4):
            tickets = [await door.come(number) for number in range(size)]
            for ticket in tickets:
                door.fails(ticket)
            door.now_s += 10.0
        assert door.gate.cache.capacity_tokens == pytest.approx(0.95 * 4 * 100)

    asyncio.run(run())


def test_a_cache_of_nothing_is_refused():
    with pytest.raises(ValueError, match="cache_tokens is 0"):
        GatewaySettings("http://127.0.0.1:1", cache_tokens=0)
