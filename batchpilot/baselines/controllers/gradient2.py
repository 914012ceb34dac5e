"""Gradient2: shrink the limit as latency rises above its long-term average, else let it grow by a fixed queue.

Source: Netflix concurrency-limits, `Gradient2Limit` and `ExpAvgMeasurement`, with their default constants.
"""

from __future__ import annotations

from dataclasses import dataclass

from batchpilot.baselines.controllers.concurrency import INITIAL_LIMIT, QUEUED_REQUESTS, Sample

MIN_LIMIT, MAX_LIMIT = 20, 200
SMOOTHING = 0.2
TOLERANCE = 1.5
LONG_WINDOW, WARM_UP = 600, 10
DRIFTED, DRIFT_DECAY = 2.0, 0.95


@dataclass
class Gradient2:
    """The limit and the long-term latency.

    Attributes:
        low: smallest limit.
        high: largest limit.
        limit: the present limit.
        long_ms: exponential average of latency over 600 requests, the plain mean over the first 10.
        seen: requests averaged so far, at most 10.
    """

    low: float = MIN_LIMIT
    high: float = MAX_LIMIT
    limit: float = INITIAL_LIMIT
    long_ms: float = 0.0
    seen: int = 0

    def __post_init__(self) -> None:
        self.limit = max(self.low, min(self.high, self.limit))

    def update(self, sample: Sample) -> str:
        """Move the limit to 0.8 limit + 0.2 (limit x gradient + 4), gradient = 1.5 long / short within [0.5, 1].

        Args:
            sample: a sample window; each of its requests is a sample of the long-term latency.
        """
        self._average(sample)
        if self.long_ms / sample.latency_ms > DRIFTED:
            self.long_ms *= DRIFT_DECAY
        if sample.in_flight < self.limit / 2:
            return f"{sample.in_flight:.0f} in flight are under half of the limit: held"
        gradient = max(0.5, min(1.0, TOLERANCE * self.long_ms / sample.latency_ms))
        target = self.limit * gradient + QUEUED_REQUESTS
        self.limit = max(self.low, min(self.high, (1 - SMOOTHING) * self.limit + SMOOTHING * target))
        return (
            f"gradient {gradient:.2f}: {sample.latency_ms:.1f} ms a token against {self.long_ms:.1f} ms in the long run"
        )

    def _average(self, sample: Sample) -> None:
        """What `requests` equal samples one by one would do to the average."""
        first = min(sample.requests, WARM_UP - self.seen)
        if first > 0:
            self.long_ms = (self.long_ms * self.seen + sample.latency_ms * first) / (self.seen + first)
            self.seen += first
        kept = (1 - 2 / (LONG_WINDOW + 1)) ** (sample.requests - first)
        self.long_ms = self.long_ms * kept + sample.latency_ms * (1 - kept)
