"""The load rule: first come first served under low load, by class under medium, by priority under high. Times in ms.

The document says what to do under which load, not where loads begin. Here they are told by what whoever waits has lost
already of what was promised: low while nobody waits, high once the longest wait exceeds half of the TTFT target. Under
high load a waiting high-priority request preempts, and low ones are shed: the queue is bounded to the prompts that the
measured prefill throughput computes within the TTFT target, low-priority requests to half of it. A load must have been
lower for three windows before it counts as lower, or the order would change with every gap between arrivals.

Source: batching document, decision tree (SPEC 2 and 7).
"""

from __future__ import annotations

import math
from dataclasses import dataclass

from batchpilot.baselines.controllers.queued_tokens import QueuedTokensRule
from batchpilot.baselines.rule import known_target
from batchpilot.core import Limits, WindowMetrics

LOW, MEDIUM, HIGH = range(3)
DISCIPLINE_AT = ("fcfs", "slo", "priority")
LOAD_NAMES = ("low", "medium", "high")

HIGH_WAIT_SHARE = 0.5
"""Of the TTFT target."""

CALM_WINDOWS = 3


@dataclass
class LoadRule:
    """The load and what it is told by.

    Attributes:
        base: limits whose other fields are kept.
        shedding: measures the prefill throughput that bounds the queue under high load.
        load: LOW, MEDIUM or HIGH.
        calm: windows in a row with a lower load than this.
    """

    base: Limits
    shedding: QueuedTokensRule
    load: int = LOW
    calm: int = 0

    def start(self) -> Limits:
        """Serve at once."""
        return self.base.replace(discipline=DISCIPLINE_AT[LOW], max_queued_tokens=None)

    def decide(self, window: WindowMetrics, limits: Limits) -> tuple[Limits, str]:
        """Tell the load, and take its discipline.

        Args:
            window: the window.
            limits: the limits in force.
        """
        bounded, _ = self.shedding.decide(window, limits)
        told = self._told(window)
        self.calm = self.calm + 1 if told < self.load else 0
        if told > self.load or self.calm >= CALM_WINDOWS:
            self.load, self.calm = told, 0
        bound = bounded.max_queued_tokens if self.load == HIGH else None
        reason = f"{LOAD_NAMES[self.load]} load: {window.queue} wait, the longest for {window.oldest_wait_ms:.0f} ms"
        return limits.replace(discipline=DISCIPLINE_AT[self.load], max_queued_tokens=bound), reason

    def _told(self, window: WindowMetrics) -> int:
        if window.queue == 0:
            return LOW
        target = known_target(self.shedding.ttft_ms, window.ttft_target_ms)
        return HIGH if window.oldest_wait_ms > HIGH_WAIT_SHARE * (math.inf if target is None else target) else MEDIUM
