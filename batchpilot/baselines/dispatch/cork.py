"""CORK: hold a batch back as long as waiting for the next request costs less than batches have been waiting anyway.

For servers with static batching. BentoML decides every ms: with n requests waiting, the last of which came t ago, it
waits on while n (t + 1 ms + a) <= 0.95 wait, where a is the slope of the fitted duration and wait how long the oldest
request of a batch waited on average. A server with limits takes one number, the longest wait of the oldest. We set it
to what that rule does when requests come evenly: the (n+1)th is waited for while it still comes in time; when it would
not, the batch goes as the rule's time runs out. The oldest's wait is the mean wait plus half of the gaps between the
first and the last of a batch.

BentoML also sheds, from the head of its queue, while more than one waits and what the head has waited and one batch of
all that wait together exceed its latency objective; a lone one once it has waited for all of it. So a long queue sheds
requests that have waited for a small part of the objective. `shed` asks for the same by `ttft_guard`: a request is
allowed the objective less what the others that wait add to such a batch, by the queue at the end of the last window.

Source: BentoML `_internal/marshal/dispatcher.py`, class `CorkDispatcher`, as of 1.4.40.
"""

from __future__ import annotations

import math
from dataclasses import dataclass, field

from batchpilot.baselines.dispatch.service_times import ServiceTimes
from batchpilot.baselines.rule import known_target
from batchpilot.core import Limits, WindowMetrics

MAX_BATCH_SIZE = 100
DECAY = 0.95
TICK_MS = 1.0
FIRST_WAIT_MS = 10.0
SMALLEST_GUARD = 0.01
"""A guard must allow something; a batch of all that wait may exceed the objective by itself."""

_FIRST_A_MS, _FIRST_B_MS = 2000.0, 1000.0


def corked_ms(wait_ms: float, slope_ms: float, gap_ms: float) -> float:
    """How long the oldest request of a batch is held back.

    Args:
        wait_ms: how long the oldest of a batch has waited on average.
        slope_ms: duration that each request adds to a batch.
        gap_ms: time between arrivals.
    """
    allowed = DECAY * wait_ms
    requests = math.floor(allowed / (gap_ms + TICK_MS + slope_ms)) + 1
    return (requests - 1) * gap_ms + max(0.0, allowed / requests - TICK_MS - slope_ms)


def first_service_times(objective_ms: float | None) -> ServiceTimes:
    """BentoML's guess before the first fit: a is 2/30 of the objective, b 1/30, at most 2 s and 1 s.

    Args:
        objective_ms: the latency objective; None for no limit.
    """
    objective = math.inf if objective_ms is None else objective_ms
    return ServiceTimes(min(_FIRST_A_MS, 2 * objective / 30), min(_FIRST_B_MS, objective / 30))


@dataclass
class CorkRule:
    """The fit and the objective.

    Attributes:
        base: limits whose other fields are kept.
        low: smallest batch size.
        high: largest batch size.
        times: fitted service times.
        shed: whether requests are refused as BentoML sheds them.
        objective_ms: the latency objective; None takes the windows' TTFT target.
    """

    base: Limits
    low: int
    high: int
    times: ServiceTimes = field(default_factory=lambda: first_service_times(None))
    shed: bool = False
    objective_ms: float | None = None

    def start(self) -> Limits:
        """One request at a time, without a wait."""
        limits = self.base.replace(batch_size=self.low, max_wait_ms=0.0)
        return limits.replace(ttft_guard=1.0) if self.shed else limits

    def decide(self, window: WindowMetrics, limits: Limits) -> tuple[Limits, str]:
        """Fit, and set the wait anew with each fit.

        Args:
            window: the window.
            limits: the limits in force.
        """
        new = self.times.add(window)
        limits = self._shedding(window, limits)
        size = self.times.warm_up_size
        if size is not None:
            size = max(self.low, min(size, self.high))
            return limits.replace(batch_size=size), f"warming up with batches of {size}"
        gap_ms = self.times.gap_ms
        if not new or gap_ms is None:
            return limits.replace(batch_size=self.high), "between fits"
        wait_ms = self.times.mean_wait_ms + (self.times.mean_requests - 1) / 2 * gap_ms
        corked = corked_ms(wait_ms, self.times.a_ms, gap_ms)
        fit = f"{self.times.a_ms:.1f} ms x n + {self.times.b_ms:.1f} ms"
        reason = f"{fit}, waits of {wait_ms:.0f} ms, arrivals every {gap_ms:.0f} ms"
        return limits.replace(batch_size=self.high, max_wait_ms=corked), reason

    def _shedding(self, window: WindowMetrics, limits: Limits) -> Limits:
        """The guard that sheds as the present queue does; while warming up only who has waited for the objective."""
        objective_ms = known_target(self.objective_ms, window.ttft_target_ms)
        if not self.shed or objective_ms is None:
            return limits
        others = 0 if self.times.warm_up_size is not None else max(window.queue - 1, 0)
        return limits.replace(ttft_guard=max(1.0 - others * self.times.a_ms / objective_ms, SMALLEST_GUARD))
