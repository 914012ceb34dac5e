"""Rows of compiled work in threads, which sleep while they wait: more of them than idle processors harm nobody."""

from __future__ import annotations

import os
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from functools import lru_cache
from itertools import pairwise

from numba import get_num_threads


@lru_cache(1)
def _threads(process: int) -> ThreadPoolExecutor:
    """The threads of this process; one that was forked off has none of its parent's."""
    return ThreadPoolExecutor(get_num_threads(), f"rows of {process}")


def in_threads(run: Callable[[int, int], None], rows: int, parts: int) -> None:
    """Run rows in parts, the first of them in the caller's thread.

    Args:
        run: runs the rows from one to before another; it lets go of the interpreter while it does.
        rows: how many there are, >= 1.
        parts: of about the same size, no more than there are rows.

    Raises:
        Exception: whatever a part raised.
    """
    ends = [rows * part // parts for part in range(parts + 1)]
    later = [_threads(os.getpid()).submit(run, *some) for some in pairwise(ends[1:])]
    run(ends[0], ends[1])
    for part in later:
        part.result()
