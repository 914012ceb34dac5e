"""Which blocks of prompts are equal, from their token ids."""

from __future__ import annotations

import hashlib
from collections.abc import Iterable

import numpy as np
from numpy.typing import NDArray

from batchpilot.engines.scheduler.state import ABSENT, SchedulerState
from batchpilot.workloads.prefixes import Prefixes


def chained_hashes(tokens: NDArray[np.int64], block_size: int) -> list[bytes]:
    """A hash of each whole block of a prompt together with all before it.

    Args:
        tokens: token ids, shape (n,).
        block_size: tokens in a block.

    Returns:
        One of 16 bytes for each of the n // block_size blocks.
    """
    hashes, before = [], b""
    for block in tokens[: len(tokens) // block_size * block_size].reshape(-1, block_size):
        before = hashlib.blake2b(before + block.tobytes(), digest_size=16).digest()
        hashes.append(before)
    return hashes


def prompt_prefixes(prompts: Iterable[NDArray[np.int64]], block_size: int) -> Prefixes:
    """Block hashes of prompts that are all known.

    Args:
        prompts: token ids of each.
        block_size: tokens in a block.
    """
    numbers: dict[bytes, int] = {}
    rows = [[numbers.setdefault(h, len(numbers)) for h in chained_hashes(p, block_size)] for p in prompts]
    return Prefixes.from_lists(rows, block_size)


class LiveContents:
    """Content numbers of the blocks of requests that come and go, given anew once nobody wants them any more.

    Args:
        row: the scheduler's arrays; `contents` has room for `room_for` numbers.
        most: most blocks of a request.
    """

    def __init__(self, row: SchedulerState, most: int) -> None:
        self._chains, self._contents = np.asarray(row.chains), np.asarray(row.contents)
        self._block_size = int(row.clock[0].block_size)
        self._chains["first"] = np.arange(len(self._chains)) * most
        self._contents["holders"] = ABSENT
        self._number: dict[bytes, int] = {}
        self._hash: dict[int, bytes] = {}
        self._wanted = np.zeros(len(self._contents), np.int64)
        self._free = list(range(len(self._contents)))

    @staticmethod
    def room_for(rows: int, most: int, blocks: int) -> int:
        """Numbers that suffice.

        Args:
            rows: requests at a time.
            most: most blocks of a request.
            blocks: KV blocks of the engine.
        """
        return rows * most + blocks

    def enter(self, r: int, prompt: NDArray[np.int64]) -> None:
        """A request comes.

        Args:
            r: its row.
            prompt: its token ids.
        """
        numbers = np.array([self._numbered(h) for h in chained_hashes(prompt, self._block_size)], np.int64)
        self._chains[r] = (self._chains["first"][r], len(numbers), 0)
        self._contents["content"][self._places(r)] = numbers
        self._wanted[numbers] += 1

    def leave(self, r: int) -> None:
        """A request has gone.

        Args:
            r: its row.
        """
        self._wanted[self._contents["content"][self._places(r)]] -= 1
        self._chains["hashed"][r] = 0

    def _places(self, r: int) -> slice:
        first = int(self._chains["first"][r])
        return slice(first, first + int(self._chains["hashed"][r]))

    def _numbered(self, content: bytes) -> int:
        if content not in self._number:
            if not self._free:
                self._forget()
            number = self._free.pop()
            self._number[content], self._hash[number] = number, content
        return self._number[content]

    def _forget(self) -> None:
        """Numbers that no request has and that are not cached are free."""
        unwanted = (self._wanted == 0) & (self._contents["holders"] == ABSENT)
        for number in np.flatnonzero(unwanted).tolist():
            if number in self._hash:
                del self._number[self._hash.pop(number)]
                self._free.append(number)
