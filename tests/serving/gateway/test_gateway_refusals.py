"""Whom the gateway refuses: its line knows whose quarter of prompt lengths lost too many."""

import asyncio

import pytest

from batchpilot import Limits
from batchpilot.core import SLO
from batchpilot.serving.gateway.completions import Completion
from batchpilot.serving.gateway.gate import Gate
from batchpilot.serving.gateway.waiting import RefusedError, Ticket, WaitingLine

LENGTHS = (10, 20, 30, 4000)


def ticket(number, prompt_tokens, arrived_ms=0.0, turn=None, max_tokens=None):
    return Ticket(number, Completion(prompt_tokens, True, max_tokens, SLO(300.0, 50.0)), arrived_ms, turn)


def line_that_refused_the_long(bound, discipline="fcfs"):
    line = WaitingLine()
    line.bound_refusals(bound)
    line.order_by(discipline)
    for number in range(120):
        one = ticket(number, LENGTHS[number % 4])
        line.arrive(one)
        line.decide(one, refused=one.completion.prompt_tokens == 4000)
    return line


@pytest.mark.parametrize(
    ("bound", "discipline", "first"),
    [(0.1, "fcfs", 4000), (0.1, "spf", 4000), (0.9, "fcfs", 10), (None, "fcfs", 10), (0.1, "priority", 10)],
)
def test_whose_quarter_is_refused_too_often_goes_first(bound, discipline, first):
    line = line_that_refused_the_long(bound, discipline)
    for number, prompt_tokens in enumerate((10, 20, 4000)):
        line.add(ticket(number, prompt_tokens, arrived_ms=float(number)))
    assert line.next().completion.prompt_tokens == first


def test_under_value_who_says_most_for_its_prompt_goes_first():
    line = WaitingLine()
    line.order_by("value")
    for number, (prompt_tokens, said) in enumerate([(100, 10), (400, 200), (50, 10)]):
        line.add(ticket(number, prompt_tokens, max_tokens=said))
    assert line.next().completion.prompt_tokens == 400


def test_every_request_is_counted_once_as_let_in_or_refused():
    async def run():
        limits = Limits(2, max_queued_tokens=60, refusal_bound=0.1)
        gate = Gate(lambda: limits, lambda: 0.0)
        loop, told = asyncio.get_running_loop(), []
        come = [ticket(number, 20, turn=loop.create_future()) for number in range(6)]
        tasks = [asyncio.ensure_future(gate.pass_through(one)) for one in come]
        await asyncio.sleep(0)
        for one in come:
            gate.leave(one)
        told = await asyncio.wait_for(asyncio.gather(*tasks, return_exceptions=True), 5)
        refused = sum(isinstance(answer, RefusedError) for answer in told)
        assert 0 < refused < 6
        assert gate.line.refused.overall == pytest.approx(refused / 6)

    asyncio.run(run())
