"""Holding calls back until a batching function is free. For one event loop; no locks."""

from __future__ import annotations

import asyncio
from collections import deque


class BatchGate:
    """Lets calls through in their order: as many as a batch may hold while none runs, none while one runs.

    `serve.batch` gathers whatever comes within its wait also while a batch runs, and lets those small batches queue up:
    a server whose callers wait for their answers then runs batches of one, whatever the size it was set to. Behind this
    gate calls queue up instead.

    Attributes:
        room: the largest batch; a change counts from the next call or batch end on.
    """

    def __init__(self) -> None:
        self.room = 1
        self._inside = 0
        self._running = 0
        self._waiting: deque[asyncio.Future[None]] = deque()

    async def enter(self) -> None:
        """Wait for one's turn; a call cancelled meanwhile leaves no trace."""
        if not self._waiting and self._open():
            self._inside += 1
            return
        turn = asyncio.get_running_loop().create_future()
        self._waiting.append(turn)
        try:
            await turn
        except asyncio.CancelledError:
            if turn.done() and not turn.cancelled():
                self.leave()
            raise

    def leave(self, calls: int = 1) -> None:
        """Calls that were let through are done with, whatever became of them.

        Args:
            calls: how many.
        """
        self._inside -= calls
        self._let_in()

    def begin(self) -> None:
        """A batch runs from now on."""
        self._running += 1

    def end(self, calls: int) -> None:
        """A batch has ended.

        Args:
            calls: how many it had.
        """
        self._running -= 1
        self.leave(calls)

    def _open(self) -> bool:
        return not self._running and self._inside < self.room

    def _let_in(self) -> None:
        while self._waiting and self._open():
            turn = self._waiting.popleft()
            if not turn.done():
                self._inside += 1
                turn.set_result(None)
