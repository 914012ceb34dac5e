"""Which of a scenario's requests are sent, and how fast."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from batchpilot.workloads.table import RequestTable


@dataclass(frozen=True, slots=True)
class Part:
    """A part of the requests, at the rate that was asked for.

    Attributes:
        start_s: of the part, in the scenario's own time.
        duration_s: its length there; None for all the rest.
        rate: sent this many times as fast.
        requests_per_s: the mean rate instead; None for the part's own.
    """

    start_s: float = 0.0
    duration_s: float | None = None
    rate: float = 1.0
    requests_per_s: float | None = None

    def of(self, requests: RequestTable) -> RequestTable:
        """The requests that are sent.

        Args:
            requests: all of them.

        Raises:
            ValueError: clients that wait for answers are asked for a part or a rate, or two rates are given.
        """
        if requests.concurrency:
            if self != Part():
                raise ValueError(
                    "clients of a closed loop set its pace: no --start-s, --duration-s, --rate, --requests-per-s"
                )
            return requests
        if self.start_s or self.duration_s is not None:
            end_s = np.inf if self.duration_s is None else self.start_s + self.duration_s
            requests = requests.window(1000.0 * self.start_s, 1000.0 * end_s)
        return requests.scale_rate(self._factor(requests))

    def _factor(self, requests: RequestTable) -> float:
        """How many times as fast a part is sent."""
        if self.requests_per_s is None:
            return self.rate
        if self.rate != 1.0:
            raise ValueError("--rate and --requests-per-s are both given; give one")
        if not self.requests_per_s > 0:
            raise ValueError(f"--requests-per-s is {self.requests_per_s}; it must be above 0")
        span_s = requests.duration_ms / 1000.0
        return self.requests_per_s * span_s / (len(requests) - 1) if span_s > 0 else 1.0
