"""A gateway's gate on a clock of its own."""

import asyncio

from batchpilot import Limits
from batchpilot.core import SLO
from batchpilot.serving.gateway.completions import Completion
from batchpilot.serving.gateway.gate import Gate
from batchpilot.serving.gateway.waiting import Ticket

PROMISE = SLO(1000.0, 50.0)


class Door:
    """A gate on a clock of its own."""

    def __init__(self, **limits):
        self.limits = Limits(**limits)
        self.now_ms = 0.0
        self.gate = Gate(lambda: self.limits, lambda: self.now_ms)
        self.numbers = 0

    def ticket(self, prompt_tokens=10, **completion):
        self.numbers += 1
        turn = asyncio.get_running_loop().create_future()
        return Ticket(self.numbers, Completion(prompt_tokens, True, None, PROMISE, **completion), self.now_ms, turn)

    async def come(self, ticket):
        task = asyncio.ensure_future(self.gate.pass_through(ticket))
        await asyncio.sleep(0)
        return task

    async def taught(self, first_token_ms):
        """Let five requests pass that take so long each."""
        for _ in range(5):
            ticket = self.ticket()
            await self.come(ticket)
            self.now_ms += first_token_ms
            self.gate.hear_tokens(ticket, 1)
            self.gate.leave(ticket)
