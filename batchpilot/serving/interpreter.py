"""How a process that serves shares its interpreter: lock and garbage collector."""

from __future__ import annotations

import gc
import sys

SWITCH_INTERVAL_S = 0.0005
"""Python's own is 5 ms. Whoever gives the lock away for a moment, as a step does at each operation of torch and a
coroutine at each write to a socket, may wait so long for it: with 70 clients steps of 34 ms took 39."""


def share_sooner() -> None:
    """Let threads of this process take turns after `SWITCH_INTERVAL_S`, if not even sooner."""
    sys.setswitchinterval(min(sys.getswitchinterval(), SWITCH_INTERVAL_S))


def keep_what_is_loaded() -> None:
    """Take all that this process has loaded so far out of the garbage collector's rounds.

    A full round looks at every object: modules, compiled kernels and the tables of their compiler are hundreds of
    thousands, and every stream of a gateway stood still for 0.17 s while it was looked at. Call it once, when a process
    that serves has loaded everything; what is thrown away later in a cycle of old objects stays in memory.
    """
    gc.collect()
    gc.freeze()
