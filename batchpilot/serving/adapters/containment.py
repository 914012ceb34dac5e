"""What fails in our code inside somebody's engine stays there: counted, told, and the engine goes on as if alone."""

from __future__ import annotations

import logging
from collections.abc import Callable
from types import TracebackType
from typing import Self

_LOG = logging.getLogger(__name__)


class Containment:
    """A context in which exceptions end; the engine's own settings come back with each.

    Args:
        stand_aside: puts the engine's own settings in force.

    Attributes:
        faults: how many exceptions there were.
        last_fault: the last one, None before.
    """

    def __init__(self, stand_aside: Callable[[], None]) -> None:
        self._stand_aside = stand_aside
        self.faults = 0
        self.last_fault: str | None = None

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> bool:
        if not isinstance(error, Exception):
            return False
        self.faults += 1
        self.last_fault = repr(error)
        if self.faults & (self.faults - 1) == 0:  # the 1st, 2nd, 4th, 8th: a fault of every step must not fill the log
            _LOG.error("fault %d in batchpilot's adapter; the engine goes on by itself", self.faults, exc_info=error)
        self._stand_aside()
        return True
