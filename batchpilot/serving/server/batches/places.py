"""How many requests of batches may run beside the interactive ones."""

from __future__ import annotations

from collections.abc import Callable

from batchpilot.core import Limits
from batchpilot.serving.server.gauges import Gauges

KEPT_FREE = 1
"""Places for whoever comes next, so that an interactive request need not wait for a batch's to end."""


class Places:
    """Counts places in the engine's batch.

    Args:
        limits: in force.
        gauges: what the engine holds now, batches' requests included.
    """

    def __init__(self, limits: Callable[[], Limits], gauges: Callable[[], Gauges]) -> None:
        self._limits, self._gauges = limits, gauges

    def free(self, own: int) -> int:
        """How many more may begin.

        Alone they take all places but those kept free, of which there is at least one; beside interactive requests at
        most half, since each one more makes every step longer.

        Args:
            own: of batches, that run or are on their way.
        """
        most, there, others = self._count(own)
        if not others:
            return max(max(most - KEPT_FREE, 1) - there, 0)
        return max(min(most - KEPT_FREE - there, most // 2 - own), 0)

    def wanted(self, own: int) -> int:
        """How many of batches' requests must give their places up.

        Args:
            own: as in `free`.
        """
        most, there, others = self._count(own)
        return min(max(there - most, own - most // 2, 0), own) if others else 0

    def _count(self, own: int) -> tuple[int, int, int]:
        """Places in all, requests at the engine or on their way, and those of them that are not batches'."""
        gauges = self._gauges()
        there = gauges.running + gauges.waiting
        return self._limits().batch_size, max(there, own), max(there - own, 0)
