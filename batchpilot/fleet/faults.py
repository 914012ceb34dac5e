"""Faults strike replicas, are noticed, and pass. Times in ms."""

from __future__ import annotations

import heapq
import math
from collections.abc import Sequence
from itertools import count

import numpy as np

from batchpilot.fleet.door import Door
from batchpilot.fleet.replicas import Replicas
from batchpilot.fleet.spec import Fault


class Faults:
    """What is still to befall a fleet.

    Args:
        faults: in any order.
        replicas: whom they befall.
        door: whom lost requests go back to.
        health_ms: after so long a replica that died or hangs is known to have.

    Raises:
        ValueError: a fault names a replica that cannot exist.
    """

    def __init__(self, faults: Sequence[Fault], replicas: Replicas, door: Door, health_ms: float) -> None:
        self._replicas, self._door, self._health_ms = replicas, door, health_ms
        self._order = count()
        self._coming: list[tuple[float, int, str, Fault]] = []
        for fault in faults:
            if fault.replica >= len(replicas):
                raise ValueError(f"a fault befalls replica {fault.replica}; there are {len(replicas)}, counted from 0")
            self._later(fault.at_ms, "strikes", fault)

    @property
    def next_ms(self) -> float:
        """When something happens next, infinity when nothing does."""
        return self._coming[0][0] if self._coming else math.inf

    def befall(self, now_ms: float) -> None:
        """Let happen what is due.

        Args:
            now_ms: fleet time.
        """
        while self.next_ms <= now_ms:
            _, _, what, fault = heapq.heappop(self._coming)
            if what == "strikes":
                self._strike(fault, now_ms)
            elif what == "noticed":
                self._notice(fault, now_ms)
            else:
                self._pass(fault, now_ms)

    def _later(self, at_ms: float, what: str, fault: Fault) -> None:
        heapq.heappush(self._coming, (at_ms, next(self._order), what, fault))

    def _strike(self, fault: Fault, now_ms: float) -> None:
        i, r = fault.replica, self._replicas
        view = r.views[i]
        if view.on == 0 or view.dead == 1:
            return
        if fault.kind == "slows":
            r.slow(i, fault.factor)
        elif fault.kind == "hangs":
            clock = r.state.clock[i]
            clock.now_ms = max(float(clock.now_ms), now_ms) + fault.lasting_ms
        else:
            view.dead = 1
            self._lose(i, now_ms)
        if fault.kind != "slows":
            self._later(now_ms + self._health_ms, "noticed", fault)
        if math.isfinite(fault.lasting_ms):
            self._later(now_ms + fault.lasting_ms, "over", fault)

    def _notice(self, fault: Fault, now_ms: float) -> None:
        if now_ms >= fault.at_ms + fault.lasting_ms:
            return
        i, r = fault.replica, self._replicas
        r.views[i].suspected = 1
        if fault.kind == "hangs":
            self._door.pools.leave(i, now_ms)
        if fault.kind == "hangs" and self._door.retries:
            places = r.silent(i)
            moved = self._door.requests_at(i, places)
            r.withdraw(i, places)
            self._door.place_again(moved, now_ms)

    def _pass(self, fault: Fault, now_ms: float) -> None:
        i, r = fault.replica, self._replicas
        if fault.kind == "slows":
            r.slow(i, 1.0)
        elif fault.kind == "hangs":
            r.views[i].suspected = 0
        else:
            r.start(i, now_ms, now_ms + 1000.0 * r.specs[r.kinds[i]].startup_s)

    def _lose(self, i: int, now_ms: float) -> None:
        """A replica has died: what had a token is lost, what had none goes elsewhere."""
        r, door = self._replicas, self._door
        again, lost = door.requests_at(i, r.silent(i)), door.requests_at(i, r.pending(i))
        door.pools.lose(i, now_ms)
        r.empty(i, door.where, now_ms)
        r.span(i).until_ms = now_ms
        door.break_off(np.setdiff1d(lost, again) if door.retries else lost, now_ms)
        if door.retries:
            door.place_again(again, now_ms)
