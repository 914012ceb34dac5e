"""Pools struck by faults: what is on its way between prefill and decode when a replica of either is lost. In ms."""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np
from numpy.typing import NDArray

from batchpilot.engines.scheduler.state import FAILED
from batchpilot.fleet.arrays import COUNT, FIRST, HANDED, MADE, MOVING, NOT_HANDED, WAITING
from batchpilot.fleet.handover import bind, free_again, let_go

if TYPE_CHECKING:
    from batchpilot.fleet.door import Door
    from batchpilot.fleet.replicas import Replicas


class Pools:
    """Requests between the replica that prefilled them and the one that will decode them.

    Args:
        replicas: of the fleet.
        door: of the fleet.
    """

    def __init__(self, replicas: Replicas, door: Door) -> None:
        self._replicas, self._door = replicas, door

    @property
    def moved_tokens(self) -> NDArray[np.int64]:
        """Prompt tokens of which KV has come to the replica that decodes; 0 of others, shape (n,)."""
        handovers, moved = np.asarray(self._door.arrays.handovers), np.zeros(len(self._door.where), np.int64)
        handed = np.flatnonzero(handovers["stage"] == HANDED)
        clock = np.asarray(self._replicas.state.clock)
        cached = handovers["shared"][handed] * clock["block_size"][handovers["target"][handed]]
        moved[handed] = self._door.arrays.incoming["prompt"][handed] - cached
        return moved

    @property
    def handover_ms(self) -> NDArray[np.float64]:
        """From a request's first token until its KV had come to the replica that decodes; NaN of others, shape (n,)."""
        handovers = np.asarray(self._door.arrays.handovers)
        spent_ms = np.full(len(self._door.where), np.nan)
        handed = np.flatnonzero(handovers["stage"] == HANDED)
        spent_ms[handed] = (handovers["end_ms"] - handovers["ready_ms"])[handed]
        return spent_ms

    def lose(self, i: int, now_ms: float) -> None:
        """A replica is lost: KV that it keeps is gone, KV bound for it goes to another, where requests try again.

        Args:
            i: its number.
            now_ms: fleet time.
        """
        handovers = self._door.arrays.handovers
        under_way = np.flatnonzero(handovers["stage"] <= MOVING)
        gone = under_way[handovers["source"][under_way] == i]
        stranded = under_way[(handovers["target"][under_way] == i) & (handovers["stage"][under_way] != MADE)]
        for r in gone[handovers["stage"][gone] == MOVING]:
            free_again(self._replicas.state, self._door.arrays, int(r))
        handovers["stage"][gone] = NOT_HANDED
        self._bind_again(stranded, now_ms)

    def leave(self, i: int, now_ms: float) -> None:
        """A replica hangs: KV that waits for it goes to another, where requests try again.

        Args:
            i: its number.
            now_ms: fleet time.
        """
        handovers = self._door.arrays.handovers
        if self._door.retries:
            waiting = (handovers["stage"] == WAITING) & (handovers["target"] == i)
            self._bind_again(np.flatnonzero(waiting), now_ms)

    def _bind_again(self, requests: NDArray[np.int64], now_ms: float) -> None:
        arrays, state = self._door.arrays, self._replicas.state
        arrays.handovers["stage"][requests] = NOT_HANDED
        self._line_up()
        for r in requests[np.argsort(arrays.handovers["ready_ms"][requests], kind="stable")]:
            if self._door.retries:
                bind(state, arrays, int(r), now_ms)
            else:
                let_go(state, arrays, int(r), FAILED, now_ms)

    def _line_up(self) -> None:
        """Make the lines anew of who is still in them."""
        handovers, lines = self._door.arrays.handovers, self._door.arrays.lines
        for stage in range(len(lines)):
            for i in range(len(self._replicas)):
                order, r = [], int(lines[stage, i, FIRST])
                for _ in range(int(lines[stage, i, COUNT])):
                    if handovers["stage"][r] == stage:
                        order.append(r)
                    r = int(handovers["next"][r])
                handovers["next"][order] = [*order[1:], -1][: len(order)]
                lines[stage, i] = (order[0], order[-1], len(order)) if order else (-1, -1, 0)
