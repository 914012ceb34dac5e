"""The prefix cache: KV blocks of equal prefixes are computed once and shared. Compiled, unchecked.

A block's *content* is a number that stands for its tokens and all tokens before them. Only full blocks are shared, and
those are never written again, so that nothing is ever copied. A prompt block is in the cache from the step on that
computed it, a block of an answer from the end of its request on. Blocks that nobody holds are idle: they count as free,
and are forgotten in the order in which they became idle when free blocks without content run out; of a request, the
last block first. So a block is never in the cache without those before it.

Nothing here is called without the cache (`clock.prefix_cache` 0); blocks are only counted then.
"""

from __future__ import annotations

from batchpilot.engines.scheduler.state import ABSENT, NOBODY, SchedulerState
from batchpilot.latency.model.compiled import inlined, kernel


@kernel
def leading(s: SchedulerState, r: int, most: int, holders: int) -> int:
    """How many leading blocks of a request, of `most`, have at least so many holders; fewer have them further back."""
    first = s.chains[r].first
    low = 0
    while low < most:
        middle = (low + most + 1) >> 1
        if s.contents[s.contents[first + middle - 1].content].holders >= holders:
            low = middle
        else:
            most = middle - 1
    return low


@inlined
def found_tokens(s: SchedulerState, r: int) -> int:
    """What the cache has of a request that waits. Its last token is always computed, or it would say nothing."""
    size = s.clock[0].block_size
    known = s.requests[r].prompt + s.requests[r].generated
    return int(leading(s, r, min(s.chains[r].hashed, (known - 1) // size), 0) * size)


@kernel
def look_up(s: SchedulerState, r: int) -> None:
    """Note what the cache has of a request that waits; one that holds blocks already has all that it needs."""
    if s.requests[r].blocks == 0:
        s.requests[r].computed = found_tokens(s, r)


@inlined
def note_change(s: SchedulerState, content: int) -> None:
    """A block has come into the cache or left it: whoever looked before can still tell how it was then."""
    before = 2 * s.clock[0].looks
    if before == 0:
        return
    place = len(s.contents) // 2 + content
    changed = s.contents[place].content
    s.contents[place].content = changed ^ 1 if changed >= before else before + 1


@kernel
def wake(s: SchedulerState, content: int) -> None:
    """An idle block is held again: it leaves the line of those to be forgotten."""
    c = s.clock[0]
    older, newer = s.contents[content].older, s.contents[content].newer
    if older == NOBODY:
        c.idle_first = newer
    else:
        s.contents[older].newer = newer
    if newer == NOBODY:
        c.idle_last = older
    else:
        s.contents[newer].older = older
    c.n_idle -= 1


@kernel
def rest(s: SchedulerState, content: int) -> None:
    """Nobody holds a cached block any more: it is the last to be forgotten."""
    c = s.clock[0]
    s.contents[content].older = c.idle_last
    s.contents[content].newer = NOBODY
    if c.idle_last == NOBODY:
        c.idle_first = content
    else:
        s.contents[c.idle_last].newer = content
    c.idle_last = content
    c.n_idle += 1


@kernel
def forget(s: SchedulerState) -> None:
    """Idle blocks leave the cache, oldest first, until there are no more of them than free blocks."""
    c = s.clock[0]
    while c.n_idle > c.free_blocks:
        content = c.idle_first
        wake(s, content)
        s.contents[content].holders = ABSENT
        note_change(s, content)


@kernel
def hold_cached(s: SchedulerState, r: int) -> None:
    """A request that is let in holds the blocks that were found for it."""
    c = s.clock[0]
    first = s.chains[r].first
    found = s.requests[r].computed // c.block_size
    for i in range(found):
        content = s.contents[first + i].content
        if s.contents[content].holders == 0:
            wake(s, content)
            c.free_blocks -= 1
        s.contents[content].holders += 1
    s.chains[r].shared = found


@kernel
def share(s: SchedulerState, r: int, tokens: int) -> None:
    """The full blocks among the first `tokens` computed of a running request are in the cache from now on.

    Where another request has computed an equal one meanwhile, that one is held and its own becomes free.
    """
    c = s.clock[0]
    chain = s.chains[r]
    full = min(tokens // c.block_size, chain.hashed)
    for i in range(chain.shared, full):
        content = s.contents[chain.first + i].content
        if s.contents[content].holders == ABSENT:
            s.contents[content].holders = 1
            note_change(s, content)
            continue
        if s.contents[content].holders == 0:
            wake(s, content)
        else:
            c.free_blocks += 1
        s.contents[content].holders += 1
    chain.shared = max(chain.shared, full)


@kernel
def let_go(s: SchedulerState, r: int) -> None:
    """A request holds its shared blocks no longer; those that nobody holds then are idle, the last block first."""
    c = s.clock[0]
    chain = s.chains[r]
    for i in range(chain.shared - 1, -1, -1):
        content = s.contents[chain.first + i].content
        s.contents[content].holders -= 1
        if s.contents[content].holders == 0:
            rest(s, content)
            c.free_blocks += 1
    s.requests[r].blocks -= chain.shared
    chain.shared = 0
