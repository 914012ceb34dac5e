"""What dispatch rules that follow from fitted service times have in common. Times in ms."""

from __future__ import annotations

from abc import ABC, abstractmethod
from dataclasses import dataclass

from batchpilot.baselines.dispatch.service_times import ServiceTimes
from batchpilot.core import Limits, WindowMetrics

SHORTEST_GAP_MS = 1e-6
"""Gaps below this are no measurement."""


@dataclass
class FittedRule(ABC):
    """Fits the service time, measures the arrivals, and sets limits anew with each fit.

    - `set_anew(limits, gap_ms)` says which, and why.

    Attributes:
        base: limits whose other fields are kept.
        low: smallest batch size.
        high: largest batch size.
        times: fitted service times.
    """

    base: Limits
    low: int
    high: int
    times: ServiceTimes

    def start(self) -> Limits:
        """Greedy until the service time is known: all that wait, without a wait."""
        return self.base.replace(batch_size=self.high, max_wait_ms=0.0)

    def decide(self, window: WindowMetrics, limits: Limits) -> tuple[Limits, str]:
        """Fit, and set anew with each fit.

        Args:
            window: the window.
            limits: the limits in force.
        """
        new = self.times.add(window)
        gap_ms = self.times.gap_ms
        if not new or not gap_ms or gap_ms < SHORTEST_GAP_MS:
            return limits, "between fits"
        return self.set_anew(limits, gap_ms)

    @abstractmethod
    def set_anew(self, limits: Limits, gap_ms: float) -> tuple[Limits, str]:
        """Limits by the present fit, and the reason.

        Args:
            limits: the limits in force.
            gap_ms: mean time between arrivals, > 0.
        """
