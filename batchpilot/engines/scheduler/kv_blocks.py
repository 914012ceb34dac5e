"""KV blocks: how many a request needs, takes and gives back. Which are shared is the prefix cache's. Compiled."""

from __future__ import annotations

from batchpilot.engines.scheduler.prefix_cache import forget, hold_cached, leading, let_go, share
from batchpilot.engines.scheduler.state import SchedulerState
from batchpilot.latency.model.compiled import inlined, kernel


@kernel
def blocks_for(tokens: int, block_size: int) -> int:
    """KV blocks that hold so many tokens."""
    return (tokens + block_size - 1) // block_size


@inlined
def blocks_needed(s: SchedulerState, r: int) -> int:
    """Free blocks that a waiting request takes to be let in: those of all it is known to need that nobody holds."""
    c = s.clock[0]
    needed = blocks_for(s.requests[r].prompt + s.requests[r].generated, c.block_size)
    if c.prefix_cache:
        held = s.requests[r].blocks
        needed -= held if held > 0 else leading(s, r, s.requests[r].computed // c.block_size, 1)
    return needed


@inlined
def take(s: SchedulerState, blocks: int) -> None:
    """Take free blocks; there must be so many. Those without content go first."""
    c = s.clock[0]
    c.free_blocks -= blocks
    if c.n_idle > c.free_blocks:
        forget(s)


@inlined
def claim(s: SchedulerState, r: int) -> None:
    """A request that is let in holds the blocks of all it is known to need, those that were found for it among them.

    One whose KV was computed elsewhere has held them since that came (`batchpilot.fleet.handover`).
    """
    c = s.clock[0]
    if s.requests[r].blocks > 0:
        return
    blocks = blocks_for(s.requests[r].prompt + s.requests[r].generated, c.block_size)
    s.requests[r].blocks = blocks
    if c.prefix_cache:
        hold_cached(s, r)
        blocks -= s.chains[r].shared
    take(s, blocks)


@inlined
def release(s: SchedulerState, r: int) -> None:
    """A request holds no blocks any more; what it computed stays in the cache until its place is needed."""
    c = s.clock[0]
    if c.prefix_cache and s.requests[r].blocks > 0:
        share(s, r, s.requests[r].computed)
        let_go(s, r)
    c.free_blocks += s.requests[r].blocks
    s.requests[r].blocks = 0
