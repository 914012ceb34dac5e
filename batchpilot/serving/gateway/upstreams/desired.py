"""How many upstreams there should be, by a scaler of `batchpilot.fleet` on what passes the gateway. Times in s."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

from batchpilot.fleet.scalers import DESIRED_METRIC, FleetView, QueueAndUse, Scaler

if TYPE_CHECKING:  # the command line, which names scalers, starts without what connections need
    from batchpilot.serving.gateway.lane import Lane
    from batchpilot.serving.gateway.member import Member

METRIC = DESIRED_METRIC
"""Name in `/metrics`; manifests of `batchpilot export-scaler` ask for it."""


@dataclass(slots=True)
class _Seen:
    """Sums since the gateway began."""

    arrivals: int = 0
    refused: int = 0
    tokens: float = 0.0
    served: int = 0
    ttft_s: float = 0.0
    e2e_s: float = 0.0


class DesiredReplicas:
    """Asks a scaler as often as it wants to be asked.

    Args:
        scaler: the rule.
        least: never fewer.
        most: never more.

    Attributes:
        replicas: wanted, None before the first decision.

    Raises:
        ValueError: the bounds are none.
    """

    def __init__(self, scaler: Scaler | None = None, least: int = 1, most: int = 8) -> None:
        if not 1 <= least <= most:
            raise ValueError(f"replicas are {least} to {most}; they must be >= 1, the least not above the most")
        self.replicas: int | None = None
        self._scaler, self._least, self._most = scaler or QueueAndUse(), least, most
        self._since_s = math.nan
        self._use = 0.0
        self._looks = 0
        self._before = _Seen()

    def hear(self, members: Sequence[Member], now_s: float) -> None:
        """Look at the upstreams, and decide when it is time.

        Args:
            members: that are well.
            now_s: the present.
        """
        lanes = [lane for member in members for lane in member.lanes]
        if lanes:
            self._use += sum(_use(lane) for lane in lanes) / len(lanes)
            self._looks += 1
        if math.isnan(self._since_s):
            self._since_s, self._before = now_s, _seen(lanes)
        elif now_s - self._since_s >= self._scaler.interval_s and self._looks:
            self._decide(members, lanes, now_s)

    def _decide(self, members: Sequence[Member], lanes: Sequence[Lane], now_s: float) -> None:
        seen, before, passed_s = _seen(lanes), self._before, now_s - self._since_s
        served = seen.served - before.served
        view = FleetView(
            now_s=now_s,
            serving=len(members),
            starting=0,
            queued=sum(len(lane.gate.line) + (lane.reading.waiting if lane.reading else 0) for lane in lanes),
            running=sum(len(lane.gate.inside) for lane in lanes),
            # Who turns somebody away is full: under a guard neither the queue nor the concurrency ever fills.
            utilisation=1.0 if seen.refused > before.refused else self._use / self._looks,
            ttft_s=(seen.ttft_s - before.ttft_s) / served if served > 0 else math.nan,
            response_s=(seen.e2e_s - before.e2e_s) / served if served > 0 else math.nan,
            arrivals_per_s=max(seen.arrivals - before.arrivals, 0) / passed_s,
            tokens_per_s=max(seen.tokens - before.tokens, 0.0) / passed_s,
        )
        self.replicas = min(max(self._scaler.decide(view), self._least), self._most)
        self._since_s, self._before, self._use, self._looks = now_s, seen, 0.0, 0


def _use(lane: Lane) -> float:
    """Share of the concurrency that is taken: what a gateway sees of utilisation."""
    return min(lane.gate.texts / lane.session.limits().batch_size, 1.0)


def _seen(lanes: Sequence[Lane]) -> _Seen:
    seen = _Seen()
    for lane in lanes:
        figures = lane.observer.figures
        seen.arrivals += lane.observer.arrived_requests
        seen.refused += sum(count for how, count in lane.observer.ended.items() if how.startswith("refused"))
        seen.tokens += lane.observer.arrived_tokens
        seen.served += figures.count
        seen.ttft_s += figures.ttft_sum_ms / 1000.0
        seen.e2e_s += figures.e2e_sum_ms / 1000.0
    return seen
