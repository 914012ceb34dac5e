"""The memory guard: whenever more than 0.85 of the device's memory is in use, the batch shrinks to 0.8 of its size.

Where an engine sets a KV cache aside, its share stands for the device's memory: weights that fill a device do
not go away with a smaller batch. What ran shrinks, not a limit that nothing reached. The document lets it never grow
again; here it does, by one a window, while someone waits and memory has been below 0.8 x 0.85 of the device, or one
burst would set the size for good.

Source: deployment document, memory monitor (SPEC 7).
"""

from __future__ import annotations

import math
from dataclasses import dataclass

from batchpilot.core import Limits, WindowMetrics

MOST_MEMORY = 0.85
SHRINK = 0.8


@dataclass
class MemoryGuardRule:
    """The bounds.

    Attributes:
        base: limits whose other fields are kept.
        low: smallest batch size.
        high: largest batch size.
    """

    base: Limits
    low: int
    high: int

    def start(self) -> Limits:
        """The base limits, within the bounds."""
        return self.base.replace(batch_size=max(self.low, min(self.base.batch_size, self.high)))

    def decide(self, window: WindowMetrics, limits: Limits) -> tuple[Limits, str]:
        """Shrink above the threshold, grow well below it.

        Args:
            window: the window.
            limits: the limits in force.
        """
        size = limits.batch_size
        used = window.kv_used_fraction if window.kv_capacity_tokens > 0 else window.memory_fraction
        if used > MOST_MEMORY:
            ran = min(size, max(window.running, math.ceil(window.batch_size_mean)))
            size = max(self.low, math.floor(SHRINK * ran))
        elif used < SHRINK * MOST_MEMORY and window.queue > 0:
            size = min(self.high, size + 1)
        return limits.replace(batch_size=size), f"{used:.0%} of the memory in use"
