"""How many servers like this one there should be for what this one sees: its vote, told to Prometheus. Times in s.

A server knows only itself. It asks `queue-and-use` as a fleet of one: 2 when it has too much to do, 0 when it could go,
else 1; the sum over all servers is how many there should be. Use is the share of its batch size or of its KV cache that
is taken, the larger: an engine that decodes for a single request steps without a pause, too. A window in which somebody
was turned away was full, whatever that share: under a guard and a step target neither batch nor queue ever fills.
"""

from __future__ import annotations

import math

from batchpilot.core import WindowMetrics
from batchpilot.fleet.scalers import FleetView, QueueAndUse, Scaler


class DesiredServers:
    """Asks a scaler as often as it wants to be asked.

    Args:
        scaler: the rule.

    Attributes:
        replicas: wanted for what this server has to do, 1 before the first decision.
    """

    def __init__(self, scaler: Scaler | None = None) -> None:
        self.replicas = 1
        self._scaler: Scaler = scaler or QueueAndUse()
        self._windows: list[WindowMetrics] = []

    def hear(self, window: WindowMetrics) -> None:
        """Take in a window, and decide when it is time.

        Args:
            window: that ended.
        """
        self._windows.append(window)
        passed_s = sum(one.duration_ms for one in self._windows) / 1000.0
        if passed_s < self._scaler.interval_s:
            return
        ttft = [one.ttft_ms_p50 / 1000.0 for one in self._windows if not math.isnan(one.ttft_ms_p50)]
        view = FleetView(
            now_s=window.end_ms / 1000.0,
            serving=1,
            starting=0,
            queued=window.queue,
            running=window.running,
            utilisation=sum(_use(one) * one.duration_ms for one in self._windows) / (1000.0 * passed_s),
            ttft_s=sum(ttft) / len(ttft) if ttft else math.nan,
            response_s=math.nan,
            arrivals_per_s=sum(one.arrivals for one in self._windows) / passed_s,
            tokens_per_s=sum(one.arrived_prompt_tokens + one.generated_tokens for one in self._windows) / passed_s,
        )
        self.replicas = max(self._scaler.decide(view), 0)
        self._windows = []


def _use(window: WindowMetrics) -> float:
    if window.refused_on_arrival + window.refused_by_guard > 0:
        return 1.0
    return min(max(window.batch_size_mean / window.limits.batch_size, window.kv_used_fraction), 1.0)
