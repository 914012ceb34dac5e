"""One run of a fleet scenario that waits for a decision every interval. Times in ms.

Decisions taken one after another and the same decisions made by a scaler within one long run give equal numbers.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass, field

import numpy as np
from numpy.typing import NDArray

from batchpilot.core.limits import Limits
from batchpilot.engines.scheduler.state import LENGTH, UNFINISHED
from batchpilot.envs.fleet.prepared import WINDOW_MS, PreparedFleet
from batchpilot.fleet.result import FleetResult
from batchpilot.fleet.routers import Router
from batchpilot.fleet.scalers import FleetView

POLL_MS = 1000.0
"""Age of a router's view: metrics are scraped, not known."""


@dataclass(slots=True)
class Orders:
    """A scaler that keeps what there is and remembers what it saw, for somebody outside to decide.

    Attributes:
        interval_s: between two looks.
        view: what it saw last; None before that.
    """

    interval_s: float
    view: FleetView | None = None

    def decide(self, view: FleetView) -> int:
        """As many as there are."""
        self.view = view
        return view.serving + view.starting


@dataclass(frozen=True, slots=True)
class Decision:
    """What holds from now on; what is None or left out stays.

    Attributes:
        replicas: of the kinds that are scaled, starting ones included.
        rule: how requests are routed, a key of `fleet.routers.RULES`.
        weights: by row, > 0.
        limits: by row.
    """

    replicas: int | None = None
    rule: str | None = None
    weights: Mapping[int, float] = field(default_factory=dict)
    limits: Mapping[int, Limits] = field(default_factory=dict)


@dataclass(frozen=True, slots=True)
class Interval:
    """What one interval brought, of the whole fleet and by row (shape (rows,)).

    Attributes:
        start_ms: when it began.
        duration_ms: its length.
        view: what scalers see at its end.
        good_tokens: output tokens of the requests that ended in it within their SLO, by row; a request whose replica
            is gone counts for none.
        total_good_tokens: the same of all requests.
        arrivals: requests that arrived, by the row that took them.
        ended: requests that ended, refused and failed ones included.
        good: requests that ended within their SLO.
        refused: requests that were refused or failed.
        ttft_ms: mean time to first token by row, NaN without one.
        tpot_ms: mean time per output token of the requests that finished, by row, NaN without one.
        utilisation: share of the interval within steps, by row, 0-1.
        queued: requests that wait, by row.
        running: requests that run, by row.
        paid_ms: time that each row's replica was paid for.
        usd: what that cost; NaN where a price is missing.
        paid_by_row: replicas paid for on average, in the price of one of the first kind, by row.
    """

    start_ms: float
    duration_ms: float
    view: FleetView
    good_tokens: NDArray[np.float64]
    total_good_tokens: float
    arrivals: NDArray[np.int64]
    ended: int
    good: int
    refused: int
    ttft_ms: NDArray[np.float64]
    tpot_ms: NDArray[np.float64]
    utilisation: NDArray[np.float64]
    queued: NDArray[np.int64]
    running: NDArray[np.int64]
    paid_ms: NDArray[np.float64]
    usd: float
    paid_by_row: NDArray[np.float64]

    @property
    def paid_replicas(self) -> float:
        """Replicas paid for on average, in the price of one of the first kind."""
        return float(self.paid_by_row.sum())


class FleetRun:
    """A fleet that stops every interval for a decision.

    Args:
        prepared: what is run.
        router: who takes a request.
        interval_ms: fleet time between two decisions, a multiple of `WINDOW_MS`; None takes the scenario's.

    Attributes:
        fleet: the fleet.
        done: whether every request has ended.

    Raises:
        ValueError: the interval is no multiple of a window.
    """

    def __init__(self, prepared: PreparedFleet, router: Router, interval_ms: float | None = None) -> None:
        self.prepared = prepared
        self.interval_ms = checked_interval_ms(
            1000.0 * prepared.scenario.interval_s if interval_ms is None else interval_ms
        )
        self._orders = Orders(self.interval_ms / 1000.0)
        self.fleet = prepared.fleet(router, self._orders)
        self.done = len(prepared.offer.requests) == 0
        self._busy_ms = np.zeros(prepared.rows)
        self._unit = prepared.price(0)

    @property
    def over(self) -> bool:
        """Whether the time is up."""
        return self.fleet.now_ms >= self.prepared.offer.horizon_ms

    def step(self, decision: Decision | None = None) -> Interval:
        """Put a decision into force and run one interval, the last one to the horizon at most.

        Args:
            decision: what changes; None for nothing.

        Raises:
            ValueError: an unknown rule, a weight that is not above 0, or limits of replicas that have tuners.
        """
        if decision is not None:
            self._order(decision)
        fleet, start_ms = self.fleet, self.fleet.now_ms
        self.done = fleet.run_until(min(start_ms + self.interval_ms, self.prepared.offer.horizon_ms))
        return self._measure(start_ms)

    def result(self) -> FleetResult:
        """What has happened so far."""
        return self.fleet.result()

    def _order(self, decision: Decision) -> None:
        fleet, replicas = self.fleet, self.fleet.replicas
        if decision.rule is not None:
            fleet.route_by(decision.rule)
        for i, weight in decision.weights.items():
            replicas.weigh(i, weight)
        for i, limits in decision.limits.items():
            replicas.order(i, limits)
        if decision.replicas is not None:
            fleet.scale(decision.replicas)

    def _measure(self, start_ms: float) -> Interval:
        fleet, replicas, requests = self.fleet, self.fleet.replicas, self.fleet.requests
        end_ms = fleet.now_ms
        records, row = fleet.records(), fleet.where[:, 0]
        over = self.done or self.over  # what ends in steps that reach beyond the last interval counts in it
        reached = math.inf if over else end_ms
        ttft = records["first_ms"] - requests.arrival_ms
        generated = records["generated"]
        with np.errstate(divide="ignore", invalid="ignore"):
            tpot = np.where(generated > 1, (records["finish_ms"] - records["first_ms"]) / (generated - 1), np.nan)
        after = start_ms if start_ms else -1.0
        ended = (records["reason"] != UNFINISHED) & (records["finish_ms"] > after) & (records["finish_ms"] <= reached)
        finished = ended & (records["reason"] == LENGTH)
        in_time = (ttft <= requests.ttft_target_ms) & ((generated < 2) | (tpot <= requests.tpot_target_ms))
        good = finished & in_time
        kept = good & (row >= 0)
        first = (records["first_ms"] > after) & (records["first_ms"] <= reached) & (generated > 0)
        arrived = (requests.arrival_ms > after) & (requests.arrival_ms <= end_ms)
        n = len(replicas)
        busy_ms = replicas.busy_ms - self._busy_ms
        self._busy_ms = replicas.busy_ms.copy()
        duration_ms = max(end_ms - start_ms, 1e-9)
        paid_ms = self._paid_ms(start_ms, end_ms)
        prices = np.array([self.prepared.price(kind) for kind in replicas.kinds])
        on = (replicas.views["on"] == 1) & (replicas.views["dead"] == 0)
        clock = replicas.state.clock
        usd = np.array([self.prepared.usd_an_hour(kind) for kind in replicas.kinds])
        return Interval(
            start_ms,
            end_ms - start_ms,
            self._view(),
            np.asarray(np.bincount(row[kept], generated[kept], minlength=n), np.float64),
            float(generated[good].sum()),
            np.bincount(row[arrived & (row >= 0)], minlength=n),
            int(ended.sum()),
            int(good.sum()),
            int((ended & ~finished).sum()),
            _means(ttft, row, first, n),
            _means(tpot, row, finished & ~np.isnan(tpot), n),
            np.minimum(busy_ms / duration_ms, 1.0),
            np.where(on, clock["n_queue"], 0).astype(np.int64),
            np.where(on, clock["n_running"], 0).astype(np.int64),
            paid_ms,
            float((paid_ms * usd)[paid_ms > 0].sum()) / 3.6e6,
            paid_ms * prices / (duration_ms * self._unit),
        )

    def _view(self) -> FleetView:
        """What a scaler saw at the interval's end; the last interval may end before anybody looks."""
        if self._orders.view is not None:
            return self._orders.view
        serving = int(np.count_nonzero(self.fleet.replicas.views["on"]))
        return FleetView(self.fleet.now_ms / 1000.0, serving, 0, 0, 0, 0.0, math.nan, math.nan, 0.0, 0.0)

    def _paid_ms(self, start_ms: float, end_ms: float) -> NDArray[np.float64]:
        paid = np.zeros(len(self.fleet.replicas))
        for span in self.fleet.replicas.spans:
            paid[span.replica] += max(min(span.until_ms, end_ms) - max(span.from_ms, start_ms), 0.0)
        return paid


def checked_interval_ms(interval_ms: float) -> float:
    """An interval as it is.

    Args:
        interval_ms: between two decisions.

    Raises:
        ValueError: it is no multiple of a window.
    """
    if not (math.isfinite(interval_ms) and interval_ms > 0 and interval_ms % WINDOW_MS == 0):
        raise ValueError(f"the interval is {interval_ms:g} ms; it must be a multiple of {WINDOW_MS:g} ms")
    return interval_ms


def _means(
    values: NDArray[np.float64], row: NDArray[np.int64], counted: NDArray[np.bool_], n: int
) -> NDArray[np.float64]:
    counted = counted & (row >= 0)
    number = np.bincount(row[counted], minlength=n)
    with np.errstate(invalid="ignore"):
        return np.asarray(np.bincount(row[counted], values[counted], minlength=n) / number)
