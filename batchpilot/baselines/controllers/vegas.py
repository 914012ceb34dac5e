"""Vegas: estimate the queue from latency above the no-load latency, and keep it between two marks.

Source: Netflix concurrency-limits, `VegasLimit` and `Log10RootFunction`, with their default constants; after TCP Vegas
(Brakmo and Peterson 1995).
"""

from __future__ import annotations

import math
from dataclasses import dataclass

import numpy as np

from batchpilot.baselines.controllers.concurrency import INITIAL_LIMIT, Sample

MIN_LIMIT, MAX_LIMIT = 1, 1000
ALPHA, BETA = 3, 6
PROBE_MULTIPLIER = 30


@dataclass
class Vegas:
    """The limit and the no-load latency.

    Attributes:
        low: smallest limit.
        high: largest limit.
        seed: of the jitter.
        limit: the present limit.
        no_load_ms: latency without queueing, 0 until measured.
        since_probe: requests since it was last measured anew.
        probes: how often it was.
        jitter: of the next time, 0.5 to 1; drawn anew each time.
    """

    low: float = MIN_LIMIT
    high: float = MAX_LIMIT
    seed: int = 0
    limit: float = INITIAL_LIMIT
    no_load_ms: float = 0.0
    since_probe: int = 0
    probes: int = 0
    jitter: float = 0.0

    def __post_init__(self) -> None:
        self.limit = max(self.low, min(self.high, self.limit))
        self.jitter = self.jitter or self._draw()

    @property
    def probe_after(self) -> float:
        """Requests after which the no-load latency is measured anew: 30 limits, times the jitter."""
        return self.jitter * PROBE_MULTIPLIER * self.limit

    def update(self, sample: Sample) -> str:
        """Grow by 6 log(limit) without a queue, by log(limit) with a small one; shrink by log(limit) with a large one.

        Args:
            sample: a sample window.
        """
        self.since_probe += sample.requests
        latency_ms = sample.latency_ms
        if self.since_probe >= self.probe_after:
            self.since_probe, self.no_load_ms = 0, latency_ms
            self.probes += 1
            self.jitter = self._draw()
            return f"no-load latency measured anew: {latency_ms:.1f} ms a token"
        if not self.no_load_ms or latency_ms < self.no_load_ms:
            self.no_load_ms = latency_ms
            return f"no-load latency: {latency_ms:.1f} ms a token"
        queue = math.ceil(self.limit * (1 - self.no_load_ms / latency_ms))
        step = max(1, int(math.log10(self.limit)))
        if sample.dropped:
            return self._move(-step, "a step failed")
        if sample.in_flight * 2 < self.limit:
            return f"{sample.in_flight:.0f} in flight are under half of the limit: held"
        if queue <= step:
            return self._move(BETA * step, f"no queue ({queue})")
        if queue < ALPHA * step:
            return self._move(step, f"a small queue ({queue})")
        if queue > BETA * step:
            return self._move(-step, f"a large queue ({queue})")
        return f"a queue of {queue} is as it should be"

    def _draw(self) -> float:
        """A draw that depends on the seed and the count alone, so that a saved tuner goes on with the same ones."""
        return float(np.random.default_rng([self.seed, self.probes]).uniform(0.5, 1.0))

    def _move(self, by: int, reason: str) -> str:
        self.limit = max(self.low, min(self.high, self.limit + by))
        return f"{reason}: {by:+d}"
