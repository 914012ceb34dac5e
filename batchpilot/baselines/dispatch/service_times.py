"""Service time of a batch, fitted while serving: duration = a x requests + b, as BentoML does it. Times in ms.

Windows do not tell batches apart. Over windows in which requests finished, as many batches ended as requests finished
per mean batch size, and the step time divided among them is a batch's duration. Windows without a completion are pooled
with the next. BentoML keeps 50 batches; here the fit keeps 50 such samples, and what describes the present (waits,
gaps, sizes) the fewest last ones that hold 50 batches, but 5 at least, since the queue at the end of a window is one
look.

The first sizes are BentoML's warm-up: two samples of one request that are not counted, then one, two and three, so that
the slope is known from the start.

Source: BentoML `_internal/marshal/dispatcher.py`, class `Optimizer`.
"""

from __future__ import annotations

from dataclasses import dataclass, field

import numpy as np

from batchpilot.core import WindowMetrics

KEPT_SAMPLES = KEPT_BATCHES = 50
FEWEST_LOOKS = 5
SKIPPED_SAMPLES = 2
WARM_UP_SIZES = (1, 1, 1, 2, 3)
REFRESH_MS = 5000.0
SMALLEST_SLOPE_MS = 0.001


@dataclass
class ServiceTimes:
    """The samples and the fit.

    Attributes:
        a_ms: duration that each request adds.
        b_ms: duration of a batch whatever its size.
        warm_up: sizes of the first batches; none to do without.
        samples: requests in a batch, its duration, requests waiting times window length, arrivals, window length and
            batches, of the last 50 samples.
        heard: samples heard, the skipped ones included.
        refreshed_ms: engine time of the last fit.
        pooled: step time, steps, requests in them, completions, waiting times length, arrivals and length of windows
            that are not yet a sample.
    """

    a_ms: float
    b_ms: float
    warm_up: list[int] = field(default_factory=lambda: list(WARM_UP_SIZES))
    samples: list[list[float]] = field(default_factory=list)
    heard: int = 0
    refreshed_ms: float = 0.0
    pooled: list[float] = field(default_factory=lambda: [0.0] * 7)

    @property
    def warm_up_size(self) -> int | None:
        """The batch size to serve next while warming up; None when warm."""
        return self.warm_up[self.heard] if self.heard < len(self.warm_up) else None

    @property
    def gap_ms(self) -> float | None:
        """Mean time between arrivals over the samples; None without any."""
        recent = self._recent()
        arrivals = sum(sample[3] for sample in recent)
        return sum(sample[4] for sample in recent) / arrivals if arrivals else None

    @property
    def mean_wait_ms(self) -> float:
        """Mean wait in the queue over the samples, by Little's law from the queue at the end of each window."""
        recent = self._recent()
        arrivals = sum(sample[3] for sample in recent)
        return sum(sample[2] for sample in recent) / arrivals if arrivals else 0.0

    @property
    def mean_requests(self) -> float:
        """Mean requests in a batch over the samples, at least 1."""
        recent = self._recent()
        return max(1.0, sum(sample[0] for sample in recent) / max(len(recent), 1))

    def add(self, window: WindowMetrics) -> bool:
        """Take a window in and fit anew, at most every 5 s once warm.

        Args:
            window: the window.

        Returns:
            Whether the fit is new.
        """
        length = window.duration_ms
        told = (
            *(window.busy_ms, window.steps, window.batch_size_mean * window.steps, window.completions),
            *(window.queue * length, window.arrivals, length),
        )
        self.pooled = [have + more for have, more in zip(self.pooled, told, strict=True)]
        busy, steps, requests, completions, waiting, arrivals, length = self.pooled
        if not (completions and steps and requests and busy):
            return False
        size = max(requests / steps, 1.0)
        self.pooled = [0.0] * 7
        self.heard += 1
        if self.heard <= SKIPPED_SAMPLES:
            return False
        self.samples.append([size, busy * size / completions, waiting, arrivals, length, completions / size])
        del self.samples[:-KEPT_SAMPLES]
        if (
            self.heard > max(len(self.warm_up), SKIPPED_SAMPLES + 1)
            and 0 <= window.end_ms - self.refreshed_ms < REFRESH_MS
        ):
            return False
        self.refreshed_ms = window.end_ms
        self._fit()
        return True

    def _recent(self) -> list[list[float]]:
        batches = 0.0
        for count, sample in enumerate(reversed(self.samples), 1):
            batches += sample[5]
            if batches >= KEPT_BATCHES and count >= FEWEST_LOOKS:
                return self.samples[-count:]
        return self.samples

    def _fit(self) -> None:
        table = np.array(self.samples)
        design = np.column_stack([table[:, 0], np.ones(len(table))])
        slope, constant = np.linalg.lstsq(design, table[:, 1], rcond=None)[0]
        self.a_ms, self.b_ms = max(SMALLEST_SLOPE_MS, float(slope)), max(0.0, float(constant))
