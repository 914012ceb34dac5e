"""How long a thread may keep the interpreter lock while another wants it."""

from __future__ import annotations

import sys

SWITCH_INTERVAL_S = 0.0005
"""Python's own is 5 ms. Whoever gives the lock away for a moment, as a step does at each operation of torch and a
coroutine at each write to a socket, may wait so long for it: with 70 clients steps of 34 ms took 39."""


def share_sooner() -> None:
    """Let threads of this process take turns after `SWITCH_INTERVAL_S`, if not even sooner."""
    sys.setswitchinterval(min(sys.getswitchinterval(), SWITCH_INTERVAL_S))
