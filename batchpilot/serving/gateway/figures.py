"""How long requests took, kept apart by how they ended: served, refused or failed. Times in ms."""

from __future__ import annotations

import math
from collections import deque

from batchpilot.serving.session.counts import quantile

KEPT = 1000
"""Of each kind the latest count."""

QUANTILES = {"p50": 0.5, "p95": 0.95}

TIMES = ("ttft_ms", "tpot_ms", "e2e_ms", "time_to_refusal_ms", "time_to_failure_ms")


class Figures:
    """Percentiles of the latest requests.

    A refusal is quick and a failure may be, so neither has a part in the latencies of what was served.

    Attributes:
        kept_promises: served requests that met both their targets.
        count: of served requests.
        ttft_sum_ms: of all of them.
        e2e_sum_ms: likewise.
    """

    def __init__(self) -> None:
        self.kept_promises = self.count = 0
        self.ttft_sum_ms = self.e2e_sum_ms = 0.0
        self._times: dict[str, deque[float]] = {name: deque(maxlen=KEPT) for name in TIMES}

    def served(self, ttft_ms: float, tpot_ms: float, e2e_ms: float, *, kept: bool) -> None:
        """A request was answered in whole.

        Args:
            ttft_ms: time to first token.
            tpot_ms: mean time per token of a text after its first, NaN with fewer than two or none seen.
            e2e_ms: time to the last.
            kept: whether its promise was.
        """
        self.kept_promises += kept
        self.count += 1
        self.ttft_sum_ms += ttft_ms
        self.e2e_sum_ms += e2e_ms
        for name, time_ms in zip(TIMES, (ttft_ms, tpot_ms, e2e_ms), strict=False):
            if not math.isnan(time_ms):
                self._times[name].append(time_ms)

    def refused(self, waited_ms: float) -> None:
        """A request was told no.

        Args:
            waited_ms: how long that took.
        """
        self._times["time_to_refusal_ms"].append(waited_ms)

    def failed(self, waited_ms: float) -> None:
        """A request failed.

        Args:
            waited_ms: how long that took.
        """
        self._times["time_to_failure_ms"].append(waited_ms)

    def percentiles(self) -> dict[str, float]:
        """`ttft_ms_p50` and so on; NaN where nothing has ended so."""
        ordered = {name: sorted(times) for name, times in self._times.items()}
        return {f"{name}_{at}": quantile(ordered[name], q) for name in TIMES for at, q in QUANTILES.items()}
