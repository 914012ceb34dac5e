"""Where the contents of the scheduler's prefix cache lie: physical blocks that several requests may read.

The scheduler says which contents are cached and how many leading blocks of a request are shared; the first request that
computed a content gives its block, and a later one that computed the same points to that block and frees its own.
"""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

from batchpilot.engines.scheduler.state import ABSENT, SchedulerState

_NOWHERE = -1


class SharedBlocks:
    """Which physical block holds which content.

    Args:
        row: the scheduler's arrays, with room for contents.
    """

    def __init__(self, row: SchedulerState) -> None:
        self._chains = np.asarray(row.chains)
        self._contents = np.asarray(row.contents)
        self._records = np.asarray(row.requests)
        self._block_size = int(row.clock[0].block_size)
        self._block = np.full(len(self._contents), _NOWHERE)
        self._computed = np.zeros(len(self._records), np.int64)

    @property
    def counts(self) -> NDArray[np.int64]:
        """Leading blocks that each request shares, shape (requests,)."""
        return self._chains["shared"].astype(np.int64)

    @property
    def idle(self) -> int:
        """Cached blocks that no request holds."""
        return int(np.count_nonzero((self._block != _NOWHERE) & (self._contents["holders"] == 0)))

    def forgotten(self) -> list[int]:
        """Blocks whose contents have left the cache since this was last asked; they are free."""
        gone = np.flatnonzero((self._block != _NOWHERE) & (self._contents["holders"] == ABSENT))
        blocks: list[int] = self._block[gone].tolist()
        self._block[gone] = _NOWHERE
        return blocks

    def place(self, r: int, i: int) -> int:
        """The block of a request's i-th, shared, content.

        Args:
            r: request.
            i: place of the block in it.

        Raises:
            RuntimeError: no block holds that content.
        """
        block = int(self._block[self._content(r, i)])
        if block == _NOWHERE:
            raise RuntimeError(f"the scheduler shares block {i} of request {r}, which was never computed")
        return block

    def share(self, r: int, table: NDArray[np.int64], first: int) -> list[int]:
        """Blocks that a running request computed are shared from now on.

        Args:
            r: request.
            table: its blocks; those whose content is cached elsewhere are replaced.
            first: how many were shared before.

        Returns:
            Blocks that are free by that.
        """
        free = []
        for i in range(first, min(int(self._chains["shared"][r]), len(table))):
            content = self._content(r, i)
            if self._block[content] == _NOWHERE:
                self._block[content] = table[i]
            elif self._block[content] != table[i]:
                free.append(int(table[i]))
                table[i] = self._block[content]
        return free

    def let_go(self, r: int, table: NDArray[np.int64], first: int) -> list[int]:
        """A request holds no blocks any more; the cache keeps those that it computed and nobody else gave.

        Args:
            r: request.
            table: its blocks.
            first: how many were shared.

        Returns:
            Blocks that are free by that.
        """
        # A preempted request has computed nothing any more; what it had was cached before.
        computed = max(int(self._records["computed"][r]), int(self._computed[r]))
        full = min(computed // self._block_size, int(self._chains["hashed"][r]))
        free = []
        for i in range(first, len(table)):
            content = self._content(r, i) if i < full else _NOWHERE
            if i < full and self._contents["holders"][content] != ABSENT and self._block[content] == _NOWHERE:
                self._block[content] = table[i]
            else:
                free.append(int(table[i]))
        return free

    def remember(self) -> None:
        """Note what each request has computed, for those that will be preempted."""
        np.copyto(self._computed, self._records["computed"])

    def _content(self, r: int, i: int) -> int:
        return int(self._contents["content"][self._chains["first"][r] + i])
