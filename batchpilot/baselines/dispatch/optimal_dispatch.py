"""The optimum of the batch-service queue, solved online: fit the service time, measure the arrivals, solve, set.

For servers with static batching. The control limit L of the optimum becomes a wait: gathering L requests takes
(L - 1) mean gaps between arrivals after the first. The batch size is the largest that the optimum dispatches. A fit
costs some ms (a policy iteration over 64 queue lengths and batches of up to 32), at most every 5 s. Until the first one
it serves greedily.
"""

from __future__ import annotations

from batchpilot.baselines.dispatch.batch_service import MS_PER_S, BatchServiceProblem
from batchpilot.baselines.dispatch.fitted_rule import FittedRule
from batchpilot.baselines.dispatch.smdp import optimal_policy
from batchpilot.core import Limits

MAX_BATCH_SIZE = 32

QUEUE_PER_BATCH = 2


class OptimalDispatchRule(FittedRule):
    """Waits, and batches, as the optimum of the queue does."""

    def set_anew(self, limits: Limits, gap_ms: float) -> tuple[Limits, str]:
        """See `FittedRule`."""
        service_ms = [self.times.b_ms + self.times.a_ms * n for n in range(1, self.high + 1)]
        problem = BatchServiceProblem(MS_PER_S / gap_ms, service_ms, max_queue=QUEUE_PER_BATCH * self.high)
        policy = optimal_policy(problem)
        limit = policy.control_limit or self.high
        size = max(self.low, int(policy.dispatch.max()))
        reason = f"load {problem.load:.2f}: serve from {limit} on, at most {size}"
        return limits.replace(batch_size=size, max_wait_ms=(limit - 1) * gap_ms), reason
