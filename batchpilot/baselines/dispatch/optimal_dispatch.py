"""The optimum of the batch-service queue, solved online: fit the service time, measure the arrivals, solve, set.

For servers with static batching. The control limit L of the optimum becomes a wait: gathering L requests takes
(L - 1) mean gaps between arrivals after the first. The batch size is the largest that the optimum dispatches. A fit
costs some ms (a policy iteration over 64 queue lengths and batches of up to 32), at most every 5 s. Until the first one
it serves greedily.
"""

from __future__ import annotations

from dataclasses import dataclass

from batchpilot.baselines.dispatch.batch_service import MS_PER_S, BatchServiceProblem
from batchpilot.baselines.dispatch.service_times import ServiceTimes
from batchpilot.baselines.dispatch.smdp import optimal_policy
from batchpilot.core import Limits, WindowMetrics

MAX_BATCH_SIZE = 32
SHORTEST_GAP_MS = 1e-6
"""Gaps below this are no measurement."""

QUEUE_PER_BATCH = 2


@dataclass
class OptimalDispatchRule:
    """The fit that the optimum is solved for.

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
        """Greedy: all that wait, without a wait."""
        return self.base.replace(batch_size=self.high, max_wait_ms=0.0)

    def decide(self, window: WindowMetrics, limits: Limits) -> tuple[Limits, str]:
        """Fit, and solve anew with each fit.

        Args:
            window: the window.
            limits: the limits in force.
        """
        new = self.times.add(window)
        gap_ms = self.times.gap_ms
        if not new or not gap_ms or gap_ms < SHORTEST_GAP_MS:
            return limits, "between fits"
        service_ms = [self.times.b_ms + self.times.a_ms * n for n in range(1, self.high + 1)]
        problem = BatchServiceProblem(MS_PER_S / gap_ms, service_ms, max_queue=QUEUE_PER_BATCH * self.high)
        policy = optimal_policy(problem)
        limit = policy.control_limit or self.high
        size = max(self.low, int(policy.dispatch.max()))
        reason = f"load {problem.load:.2f}: serve from {limit} on, at most {size}"
        return limits.replace(batch_size=size, max_wait_ms=(limit - 1) * gap_ms), reason
