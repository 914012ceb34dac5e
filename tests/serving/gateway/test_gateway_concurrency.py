"""The gate before an upstream at twice its capacity, on a clock of its own: how many it keeps, how steadily."""

import asyncio
from dataclasses import dataclass

import numpy as np
import pytest

from batchpilot import Limits
from batchpilot.core import SLO
from batchpilot.serving.gateway.completions import Completion
from batchpilot.serving.gateway.gate import Gate
from batchpilot.serving.gateway.waiting import RefusedError, Ticket
from batchpilot.serving.session.engine import step_ms

STEPS = (20.0, 0.12, 0.005, 0.0, 2.0, 24.0, 0.7, 0.08, 0.0004)
"""The upstream of `examples/gateway_upstream.py`, twice as slow."""

BUDGET, BEAT_MS = 2048, 50.0
PROMISE = SLO(2000.0, 100.0)
CAPACITY_PER_S, LASTING_S, SETTLED_S = 9.2, 60.0, 15.0


@dataclass(eq=False)
class Running:
    """A request at the upstream."""

    ticket: Ticket
    prompt: int
    output: int
    said: int = 0


class Served:
    """An upstream of continuous batching behind a gate."""

    def __init__(self, step_target_ms, load, seed):
        limits = Limits(256, 2048, step_target_ms=step_target_ms, ttft_guard=1.0, discipline="spf")
        self.now_ms = 0.0
        self.gate = Gate(lambda: limits, lambda: self.now_ms)
        self.running: list[Running] = []
        self.counts, self.tpots_ms, self.refused_ms = [], [], []
        rng = np.random.default_rng(seed)
        rate_per_s = load * CAPACITY_PER_S
        count = int(rate_per_s * LASTING_S)
        self.arrivals_ms = np.cumsum(rng.exponential(1000.0 / rate_per_s, count)).tolist()
        self.prompts = np.clip(160 * np.exp(0.9 * rng.standard_normal(count)), 8, 1500).astype(int).tolist()
        self.outputs = np.clip(50 * np.exp(0.6 * rng.standard_normal(count)), 4, 200).astype(int).tolist()
        self.passing: set[asyncio.Task] = set()

    async def client(self, number):
        turn = asyncio.get_running_loop().create_future()
        asked = Completion(self.prompts[number], True, self.outputs[number], PROMISE)
        ticket = Ticket(number, asked, self.now_ms, turn)
        try:
            await self.gate.pass_through(ticket)
        except RefusedError:
            self.refused_ms.append(self.now_ms)
            self.gate.leave(ticket)
        else:
            self.running.append(Running(ticket, self.prompts[number], self.outputs[number]))

    async def until(self, end_ms):
        """Time passes: clients come, the gate's heart beats."""
        while self.now_ms < end_ms:
            self.now_ms = min(self.now_ms + BEAT_MS, end_ms)
            while self.arrivals_ms and self.arrivals_ms[0] <= self.now_ms:
                self.arrivals_ms.pop(0)
                task = asyncio.ensure_future(self.client(len(self.prompts) - len(self.arrivals_ms) - 1))
                self.passing.add(task)
                task.add_done_callback(self.passing.discard)
            await asyncio.sleep(0)
            self.gate.sweep()
            for _ in range(3):  # who was let go begins
                await asyncio.sleep(0)

    async def step(self):
        """One step: a token for each whose prompt is computed, the rest of the budget for prompts."""
        decoding = [one for one in self.running if one.prompt == 0]
        left, computed, begun = BUDGET - len(decoding), 0, []
        for one in self.running:
            part = min(one.prompt, left - computed)
            if one.prompt and part > 0:
                one.prompt -= part
                computed += part
                begun.append(one)
        context = sum(self.prompts[one.ticket.number] + one.said for one in decoding)
        batch = len(decoding) + len(begun)
        began_ms = self.now_ms
        await self.until(began_ms + step_ms(STEPS, batch, len(decoding) + computed, context))
        spoke = [one for one in [*decoding, *begun] if one.prompt == 0]
        self.gate.service.hear_step(len(spoke), self.now_ms - began_ms)
        for one in spoke:
            self.gate.hear_tokens(one.ticket, 1)
            one.said += 1
        for one in [one for one in spoke if one.said == one.output]:
            self.running.remove(one)
            self.gate.hear_answer(one.ticket, one.output)
            if one.ticket.first_ms > 1000.0 * SETTLED_S:
                self.tpots_ms.append((self.now_ms - one.ticket.first_ms) / (one.output - 1))
            self.gate.leave(one.ticket)
        if self.now_ms > 1000.0 * SETTLED_S:
            self.counts.append(len(self.gate.inside))

    async def run(self):
        while self.arrivals_ms:
            await (self.step() if self.running else self.until(self.now_ms + BEAT_MS))
        for task in self.passing:
            task.cancel()


@pytest.mark.parametrize("step_target_ms", [95.0, 70.0])
def test_at_twice_the_capacity_the_concurrency_holds_still_and_answers_keep_their_pace(step_target_ms):
    # It swung between 16 and 54: what had kept the pace beside 40 let in 20 at once, whose prompts held up everybody.
    served = Served(step_target_ms, load=2.0, seed=0)
    asyncio.run(served.run())
    low, usual, high = np.percentile(served.counts, [5, 50, 95])
    assert high - low < 0.35 * usual, (low, usual, high)
    assert np.mean(np.array(served.tpots_ms) <= PROMISE.tpot_ms) > 0.95


@pytest.mark.parametrize("step_target_ms", [95.0, 70.0])
def test_at_half_the_capacity_nobody_is_refused_once_it_has_begun_and_answers_keep_their_pace(step_target_ms):
    served = Served(step_target_ms, load=0.5, seed=3)
    asyncio.run(served.run())
    assert max(served.refused_ms, default=0.0) < 6000.0
    assert len(served.refused_ms) <= 5  # of 276; 14 before answers that speak were asked
    assert np.mean(np.array(served.tpots_ms) <= PROMISE.tpot_ms) > 0.99
