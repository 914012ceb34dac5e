"""Predictive batching: hold a batch back while those expected within 100 ms make it more efficient by a fifth.

For servers with static batching. Efficiency is requests a ms of service, n / (a n + b) for a batch of n by the fitted
service time. With k arrivals expected in 100 ms the rule waits while efficiency(n + k) / efficiency(n) > 1.2, which
falls as n grows: from some n on it does not wait. Gathering those takes (n - 1) mean gaps after the first, and never
more than the 100 ms, so that is the wait; a full batch goes at once.

Source: batching document, predictive batching (SPEC 2 and 7), which names neither its efficiency nor its predictor:
here service time and arrivals as they have been measured.
"""

from __future__ import annotations

from batchpilot.baselines.dispatch.fitted_rule import FittedRule
from batchpilot.baselines.dispatch.service_times import ServiceTimes
from batchpilot.core import Limits

LOOK_AHEAD_MS = 100.0
WORTH_WAITING = 1.2


def efficiency(requests: float, times: ServiceTimes) -> float:
    """Requests a ms of service in a batch.

    Args:
        requests: in the batch, > 0.
        times: fitted service times.
    """
    return requests / (times.a_ms * requests + times.b_ms)


def served_at_once_from(times: ServiceTimes, gap_ms: float, most: int) -> int:
    """The smallest number of waiting requests for which the rule does not wait; at most `most`, a full batch.

    Args:
        times: fitted service times.
        gap_ms: mean time between arrivals, > 0.
        most: requests in a full batch, >= 1.
    """
    expected = LOOK_AHEAD_MS / gap_ms
    for waiting in range(1, most):
        gathered = min(waiting + expected, float(most))
        if efficiency(gathered, times) <= WORTH_WAITING * efficiency(waiting, times):
            return waiting
    return most


class PredictiveRule(FittedRule):
    """Waits for those who make a batch more efficient."""

    def set_anew(self, limits: Limits, gap_ms: float) -> tuple[Limits, str]:
        """See `FittedRule`."""
        gathered = served_at_once_from(self.times, gap_ms, self.high)
        wait_ms = min(LOOK_AHEAD_MS, (gathered - 1) * gap_ms)
        reason = f"{LOOK_AHEAD_MS / gap_ms:.1f} arrivals in 100 ms: {gathered} are worth a wait of {wait_ms:.0f} ms"
        return limits.replace(max_wait_ms=wait_ms), reason
