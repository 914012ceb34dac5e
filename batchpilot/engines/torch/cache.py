"""The paged KV cache: key and value tensors in blocks, and which blocks each request holds.

The scheduler only counts blocks. `BlockTables` follows its counts with physical blocks: what it took is taken here,
what it freed is freed here, and the two sums are compared after every change. Leading blocks that the prefix cache
shares stand in several tables.
"""

from __future__ import annotations

import math

import numpy as np
import torch
from numpy.typing import NDArray

from batchpilot.engines.torch.shape import ModelShape
from batchpilot.engines.torch.shared_blocks import SharedBlocks


class PagedKVCache:
    """Keys and values of every layer, in blocks of tokens; allocated once.

    Args:
        shape: the model's.
        blocks: number of blocks.
        block_size: tokens in a block.
        dtype: of keys and values.
        device: where they live.

    Attributes:
        keys: a tensor a layer, shape (blocks, block_size, kv_heads, head_dim).
        values: the same.
        block_size: tokens in a block.
    """

    def __init__(
        self, shape: ModelShape, blocks: int, block_size: int, dtype: torch.dtype, device: torch.device
    ) -> None:
        size = (blocks, block_size, shape.kv_heads, shape.head_dim)
        # Zeros, since attention multiplies what lies behind a context's end by zero, which does not silence a NaN.
        self.keys = [zeros(size, dtype, device) for _ in range(shape.layers)]
        self.values = [zeros(size, dtype, device) for _ in range(shape.layers)]
        self.block_size = block_size
        self._contexts = [self.keys[0].new_empty(0), self.keys[0].new_empty(0)]

    def write(self, layer: int, slots: torch.Tensor, keys: torch.Tensor, values: torch.Tensor) -> None:
        """Keep a step's keys and values.

        Args:
            layer: index of the layer.
            slots: where they go, block times block size plus offset, shape (S,).
            keys: shape (S, kv_heads, head_dim).
            values: the same.
        """
        self.keys[layer].flatten(0, 1).index_copy_(0, slots, keys)
        self.values[layer].flatten(0, 1).index_copy_(0, slots, values)

    def contexts(self, layer: int, table: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
        """Keys and values of some blocks, one after the other, in memory that the next call uses again.

        Args:
            layer: index of the layer.
            table: block ids, shape (n,).

        Returns:
            Keys and values, each of shape (n * block_size, kv_heads, head_dim).
        """
        found = []
        for k, blocks in enumerate((self.keys[layer], self.values[layer])):
            flat = blocks.flatten(1)
            size = len(table) * flat.shape[1]
            if self._contexts[k].numel() < size:
                # Half as much again, so that growing contexts do not allocate in every step.
                self._contexts[k] = flat.new_empty(size + size // 2)
            out = self._contexts[k][:size].view(len(table), -1)
            torch.index_select(flat, 0, table, out=out)
            found.append(out.view(-1, *blocks.shape[2:]))
        return found[0], found[1]

    @property
    def blocks(self) -> int:
        """Number of blocks."""
        return int(self.keys[0].shape[0])


class BlockTables:
    """Which physical blocks each request holds.

    Args:
        requests: number of requests.
        blocks: number of blocks.
        most: most blocks of one request.
        shared: where the contents of a prefix cache lie; None without one.
    """

    def __init__(self, requests: int, blocks: int, most: int, shared: SharedBlocks | None = None) -> None:
        self._held = np.zeros(requests, np.int64)
        self._row = np.full(requests, -1, np.int64)
        self._tables = np.zeros((1, max(most, 1)), np.int64)
        self._free_rows = [0]
        self._fresh = 0
        self._blocks = blocks
        self._returned: list[int] = []
        self._sharing = shared
        self._shared = np.zeros(requests, np.int64)

    @property
    def free(self) -> int:
        """Blocks that no request holds."""
        idle = 0 if self._sharing is None else self._sharing.idle
        return self._blocks - self._fresh + len(self._returned) + idle

    @property
    def held(self) -> NDArray[np.int64]:
        """Blocks each request holds, shape (requests,)."""
        return self._held

    @property
    def rows(self) -> int:
        """Requests that there is room for; it grows with those that hold blocks together, not with those that did."""
        return len(self._tables)

    def follow(self, counts: NDArray[np.int64], free: int) -> None:
        """Free and take blocks until every request holds what the scheduler counts.

        Args:
            counts: blocks of each request as the scheduler counts them, shape (requests,).
            free: free blocks as the scheduler counts them.

        Raises:
            RuntimeError: the scheduler's free blocks are not ours: one was leaked or given twice.
        """
        changed = np.flatnonzero(counts != self._held)
        if self._sharing is not None:
            changed = self._follow_sharing(self._sharing, counts)
        for shrinking in (True, False):
            for r in changed:
                if (counts[r] < self._held[r]) == shrinking:
                    self._resize(int(r), int(counts[r]))
        if self.free != free:
            raise RuntimeError(f"the block tables have {self.free} free blocks, the scheduler counts {free}")

    def table(self, requests: NDArray[np.int64]) -> NDArray[np.int64]:
        """Block ids of some requests.

        Args:
            requests: ids, shape (n,); each holds at least one block.

        Returns:
            Shape (n, most that one of them holds); entries behind a request's last block are ids of any block.
        """
        return self._tables[self._row[requests], : self._held[requests].max()]

    def owned(self) -> NDArray[np.int64]:
        """Every block that is held, once for each holder, shape (blocks held,)."""
        holders = np.flatnonzero(self._held)
        return np.concatenate([np.zeros(0, np.int64), *(self._tables[self._row[r], : self._held[r]] for r in holders)])

    def _follow_sharing(self, sharing: SharedBlocks, counts: NDArray[np.int64]) -> NDArray[np.intp]:
        """Share what was computed and free what was forgotten; returns whose tables are still to be resized."""
        self._returned += sharing.forgotten()
        shared = sharing.counts
        for r in np.flatnonzero((self._held > 0) & ((counts != self._held) | (shared != self._shared))):
            table = self._tables[self._row[r], : self._held[r]]
            before = int(self._shared[r])
            if counts[r] > 0 and shared[r] >= before:
                self._returned += sharing.share(int(r), table, before)
                continue
            # It has ended, was preempted, or was that and let in again with less in the cache.
            self._returned += sharing.let_go(int(r), table, before)
            self._held[r] = 0
            self._free_rows.append(int(self._row[r]))
        self._shared = shared
        sharing.remember()
        return np.flatnonzero(counts != self._held)

    def _resize(self, r: int, count: int) -> None:
        held = int(self._held[r])
        if held == 0:
            self._row[r] = self._take_row()
        row = self._tables[self._row[r]]
        if count < held:
            self._returned.extend(row[count:held].tolist())
        else:
            row[held:count] = [self._block_for(r, i) for i in range(held, count)]
        self._held[r] = count
        if count == 0:
            self._free_rows.append(int(self._row[r]))
            self._row[r] = -1

    def _block_for(self, r: int, i: int) -> int:
        """The block at a place that a request's table grows by: one that is shared, or a free one."""
        if self._sharing is not None and i < self._shared[r]:
            return self._sharing.place(r, i)
        return self._take_block()

    def _take_block(self) -> int:
        if self._returned:
            return self._returned.pop()
        if self._fresh == self._blocks:
            raise RuntimeError(f"the scheduler gave more than the {self._blocks} blocks there are")
        self._fresh += 1
        return self._fresh - 1

    def _take_row(self) -> int:
        if not self._free_rows:
            rows = len(self._tables)
            self._tables = np.concatenate([self._tables, np.zeros_like(self._tables)])
            self._free_rows = list(range(rows, 2 * rows))
        return self._free_rows.pop()


def zeros(size: tuple[int, ...], dtype: torch.dtype, device: torch.device) -> torch.Tensor:
    """Zeros that take memory when they are first written.

    Args:
        size: shape.
        dtype: of the values.
        device: where they live.
    """
    if device.type != "cpu":
        return torch.zeros(size, dtype=dtype, device=device)
    # NumPy's zeros come from the system when they are first touched; torch would fill gigabytes at start.
    octets = np.zeros(math.prod(size) * dtype.itemsize, np.uint8)
    return torch.from_numpy(octets).view(dtype).view(size)
