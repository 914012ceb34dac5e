"""Says that kernels are being compiled: the first command of an installation would else be silent for minutes."""

from __future__ import annotations

import threading
from collections.abc import Callable

from numba.core.event import Event, Listener, register

LONG_S = 5.0
TOLD = "compiling the simulation, once for this installation: two minutes, up to four on a busy machine"


class CompilingListener(Listener):  # type: ignore[misc] # Numba has no types
    """Tells once of compilation that takes longer than `LONG_S`.

    Args:
        tell: hears `TOLD`.
        after_s: how long is not worth a word.
    """

    def __init__(self, tell: Callable[[str], None], after_s: float = LONG_S) -> None:
        self._tell, self._after_s = tell, after_s
        self._depth, self._told = 0, False
        self._timer: threading.Timer | None = None

    def on_start(self, event: Event) -> None:
        """A function is compiled, perhaps on the way to another.

        Args:
            event: Numba's.
        """
        self._depth += 1
        if self._depth == 1 and not self._told:
            self._timer = threading.Timer(self._after_s, self._say)
            self._timer.daemon = True
            self._timer.start()

    def on_end(self, event: Event) -> None:
        """It is compiled.

        Args:
            event: Numba's.
        """
        self._depth -= 1
        if self._depth == 0 and self._timer is not None:
            self._timer.cancel()
            self._timer = None

    def _say(self) -> None:
        self._told = True
        self._tell(TOLD)


def tell_of_compiling(tell: Callable[[str], None]) -> None:
    """From now on say so when kernels are compiled.

    Args:
        tell: hears it, from another thread.
    """
    register("numba:compile", CompilingListener(tell))
