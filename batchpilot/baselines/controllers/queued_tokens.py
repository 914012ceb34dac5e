"""vLLM's own advice on admission: `max_queued_tokens` = target TTFT x prefill throughput. Times in ms.

The advice leaves the throughput to the user; here it is measured: prompt tokens computed over step time, in the windows
that end with a queue, where the engine takes prompts as fast as its decodes let it. Until 10 such windows are heard,
the queue is unbounded, as vLLM ships it. The constant variant stops there; the online one goes on averaging.

The bound counts whole prompts until their first token, as vLLM's does.

Source: vLLM 0.32, `SchedulerConfig.max_num_queued_tokens`.
"""

from __future__ import annotations

from dataclasses import dataclass

from batchpilot.baselines.rule import known_target
from batchpilot.core import Limits, WindowMetrics

CALIBRATION_WINDOWS = 10
ONLINE_WEIGHT = 0.1
SHORTEST_BUSY_MS = 1e-3
"""A window that worked for less tells no throughput."""

MOST_QUEUED_TOKENS = 2**40
"""A bound beyond this is none; odd windows may tell an infinite throughput."""


@dataclass
class QueuedTokensRule:
    """The bound and the measured throughput.

    Attributes:
        base: limits whose other fields are kept.
        online: whether the throughput is measured on after the calibration.
        ttft_ms: target TTFT; None takes the windows'.
        windows: calibration windows heard.
        tokens: prompt tokens computed in them.
        busy_ms: their step time.
        tokens_per_ms: prefill throughput, 0 until calibrated.
    """

    base: Limits
    online: bool = False
    ttft_ms: float | None = None
    windows: int = 0
    tokens: float = 0.0
    busy_ms: float = 0.0
    tokens_per_ms: float = 0.0

    def start(self) -> Limits:
        """The base limits without a bound on the queue."""
        return self.base.replace(max_queued_tokens=None)

    def decide(self, window: WindowMetrics, limits: Limits) -> tuple[Limits, str]:
        """Measure, and set the bound once calibrated.

        Args:
            window: the window; one without a queue at its end, or without a prompt computed, tells no throughput.
            limits: the limits in force.
        """
        if window.queue > 0 and window.busy_ms > 0 and window.prefill_tokens > 0:
            self._measure(window)
        target = known_target(self.ttft_ms, window.ttft_target_ms)
        if not self.tokens_per_ms:
            return limits, f"{self.windows} of {CALIBRATION_WINDOWS} calibration windows"
        if target is None:
            return limits, "no TTFT target known"
        bound = int(min(target * self.tokens_per_ms, MOST_QUEUED_TOKENS))
        reason = f"{target:.0f} ms x {1000 * self.tokens_per_ms:.0f} prompt tokens/s"
        return limits.replace(max_queued_tokens=bound), reason

    def _measure(self, window: WindowMetrics) -> None:
        if window.busy_ms < SHORTEST_BUSY_MS:
            return
        if self.windows < CALIBRATION_WINDOWS:
            self.windows += 1
            self.tokens += window.prefill_tokens
            self.busy_ms += window.busy_ms
            if self.windows == CALIBRATION_WINDOWS:
                self.tokens_per_ms = self.tokens / self.busy_ms
        elif self.online:
            self.tokens_per_ms += ONLINE_WEIGHT * (window.prefill_tokens / window.busy_ms - self.tokens_per_ms)
