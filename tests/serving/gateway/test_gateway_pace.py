"""The pace that the gateway learns when events hold several tokens, and when requests ask for several texts."""

import asyncio

import pytest

from batchpilot import Limits
from batchpilot.baselines import StaticTuner
from batchpilot.core import SLO
from batchpilot.serving.answers import AnswerReader
from batchpilot.serving.gateway.completions import Completion
from batchpilot.serving.gateway.gate import Gate
from batchpilot.serving.gateway.observer import Observer
from batchpilot.serving.gateway.waiting import Ticket
from batchpilot.serving.outcomes import SERVED
from batchpilot.serving.session.session import TunerSession


class Watched:
    """A gateway's observer, on a clock of its own, of answers that come event by event."""

    def __init__(self, texts=1, tpot_ms=50.0):
        self.now_ms = 0.0
        self.windows = []
        self.session = TunerSession(
            StaticTuner(Limits(8)), window_ms=1e9, clock=lambda: self.now_ms / 1000.0, on_window=self.windows.append
        )
        self.gate = Gate(self.session.limits, lambda: self.session.now_ms)
        self.observer = Observer(self.session, self.gate)
        self.asked = Completion(10, True, None, SLO(1000.0, tpot_ms), choices=texts)
        self.numbers = 0

    async def answer(self, events, every_ms, usage=None):
        """One request whose texts each speak so often."""
        self.numbers += 1
        ticket = Ticket(self.numbers, self.asked, self.now_ms, asyncio.get_running_loop().create_future())
        self.observer.arrived(ticket)
        await self.gate.pass_through(ticket)
        self.observer.sent(ticket)
        reader = AnswerReader(tokens_per_event=self.observer.tokens_per_event)
        for event in range(events):
            self.now_ms += every_ms if event else 20.0
            for index in range(self.asked.choices):
                said = reader.hear(b'data: {"choices": [{"index": %d, "text": "x"}]}\n\n' % index)
                self.observer.spoke(ticket, said)
        if usage is not None:
            reader.hear(b'data: {"choices": [], "usage": {"completion_tokens": %d}}\n\n' % usage)
        reader.hear(b"data: [DONE]\n\n")
        reader.end()
        self.observer.judged(ticket, SERVED, reader)
        self.gate.leave(ticket)


@pytest.mark.parametrize("held", [1, 4])
def test_the_pace_is_that_of_a_token_when_only_the_last_usage_tells_how_many_an_event_holds(held):
    async def run():
        watched = Watched()
        for _ in range(200):
            await watched.answer(20, 20.0 * held, usage=20 * held)
        assert watched.observer.output_tokens == 200 * 20 * held
        assert watched.gate.service.token_ms(1) == pytest.approx(20.0, rel=0.15)
        assert watched.observer.figures.kept_promises == 200

    asyncio.run(run())


def test_the_pace_of_several_texts_is_that_of_each():
    async def run():
        watched = Watched(texts=4, tpot_ms=15.0)
        for _ in range(10):
            await watched.answer(20, 20.0)
        assert watched.observer.output_tokens == 10 * 80
        assert watched.gate.service.token_ms(4) == pytest.approx(20.0, rel=0.1)
        assert watched.observer.figures.percentiles()["tpot_ms_p50"] == pytest.approx(20.0)
        assert watched.observer.figures.kept_promises == 0
        watched.now_ms += 2e9
        watched.session.tick()
        assert watched.windows[-1].completions == 10
        assert watched.windows[-1].slo_attainment == 0.0

    asyncio.run(run())
