"""Which requests are turns of one conversation: a turn is asked after the answer to the one before. Times in ms.

A conversation is closed by itself: however slow the server, nobody asks the third question before the second is
answered. A turn that is refused, fails or is cancelled breaks its conversation off, and takes the later turns with it.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

ALONE = -1
"""Stands for "no conversation"."""

LAST = -1
"""Stands for "no turn follows"."""


@dataclass(frozen=True, eq=False)
class Turns:
    """Conversations of some requests; the turns of one stand in order among them.

    Attributes:
        session: number of the conversation, `ALONE` for a request that is none's, shape (n,), int64.
        think_ms: from the end of the answer before to the turn (reading, typing, tools), >= 0, shape (n,), float64; of
            first turns it is ignored.

    Raises:
        ValueError: the shapes differ, or a think time is negative or not finite.
    """

    session: NDArray[np.int64]
    think_ms: NDArray[np.float64]

    def __post_init__(self) -> None:
        if self.session.shape != self.think_ms.shape or self.session.ndim != 1:
            raise ValueError(
                f"session has shape {self.session.shape}, think_ms {self.think_ms.shape}; both must be (n,)"
            )
        wrong = np.flatnonzero(~(np.isfinite(self.think_ms) & (self.think_ms >= 0)))
        if len(wrong):
            raise ValueError(f"think_ms of request {wrong[0]} is {self.think_ms[wrong[0]]:g}; it must be >= 0 ms")

    @classmethod
    def none(cls, n: int) -> Turns:
        """So many requests that are no conversation's.

        Args:
            n: how many.
        """
        return cls(np.full(n, ALONE, np.int64), np.zeros(n))

    def __len__(self) -> int:
        return len(self.session)

    def following(self) -> NDArray[np.int64]:
        """The request that is the next turn after each, `LAST` where none is, shape (n,)."""
        following = np.full(len(self), LAST, np.int64)
        order = np.argsort(self.session, kind="stable")
        order = order[self.session[order] != ALONE]
        together = self.session[order[1:]] == self.session[order[:-1]]
        following[order[:-1][together]] = order[1:][together]
        return following

    def first(self) -> NDArray[np.bool_]:
        """Which requests wait for no answer, shape (n,)."""
        first = np.ones(len(self), np.bool_)
        following = self.following()
        first[following[following != LAST]] = False
        return first

    def first_of(self) -> NDArray[np.int64]:
        """The first turn of each request's conversation, itself without one, shape (n,)."""
        _, first, place = np.unique(self.session, return_index=True, return_inverse=True)
        return np.where(self.session == ALONE, np.arange(len(self)), first[place])

    def select(self, rows: NDArray[np.intp] | NDArray[np.bool_] | slice) -> Turns:
        """Those of some requests, in order; the first turn that is left of a conversation waits for no answer.

        Args:
            rows: an index array, a mask of shape (n,) or a slice.
        """
        return Turns(self.session[rows], self.think_ms[rows])

    def apart(self, group: NDArray[np.int64]) -> Turns:
        """The same, with no conversation in two groups of requests.

        Args:
            group: a number for each request, >= 0, shape (n,).
        """
        size = int(self.session.max(initial=ALONE)) + 1
        return Turns(np.where(self.session == ALONE, ALONE, self.session + size * group), self.think_ms)
