"""How many replicas there should be: each scaler is one rule, asked every `interval_s`.

A scaler answers with a number of replicas; the fleet keeps it between its bounds, lets new ones start up and those that
go finish what they have. Times in seconds.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from typing import Protocol

from batchpilot.fleet.forecast import Forecast

DESIRED_METRIC = "batchpilot_desired_replicas"
"""What a gateway, and each server, tells Prometheus of a scaler's decision; `batchpilot export-scaler` asks for it."""


@dataclass(frozen=True, slots=True)
class FleetView:
    """What a scaler sees of the fleet, over the time since it was asked last.

    Attributes:
        now_s: the time.
        serving: replicas that serve.
        starting: replicas that start up.
        queued: requests that wait, of all replicas together.
        running: requests that run.
        utilisation: mean share of the time within steps over the serving replicas, 0-1.
        ttft_s: mean time to first token, NaN without one.
        response_s: mean time of the requests that finished, NaN without one.
        arrivals_per_s: requests that arrived a second, refused ones included.
        tokens_per_s: prompt and expected output tokens that arrived a second, less those that prefix caches have where
            that is known: as many of the prompts' as were found in the prompts that were let in.
        slo_attainment: share of the requests that ended within their SLO, refused and failed ones counted as missed;
            NaN where nobody knows.
    """

    now_s: float
    serving: int
    starting: int
    queued: int
    running: int
    utilisation: float
    ttft_s: float
    response_s: float
    arrivals_per_s: float
    tokens_per_s: float
    slo_attainment: float = math.nan


class Scaler(Protocol):
    """How many replicas there should be."""

    interval_s: float

    def decide(self, view: FleetView) -> int:
        """Replicas wanted, starting ones included.

        Args:
            view: the fleet.
        """


@dataclass(slots=True)
class QueueAndUse:
    """Up while the queue is long or the devices busy, down while the queue is short and the devices idle.

    Source: inference basics document: up above 10 queued a replica or 85 % utilisation, down below 2 and 30 %.

    Attributes:
        interval_s: between decisions.
        up_queue: queued requests a replica above which one is added.
        up_utilisation: utilisation above which one is added.
        down_queue: queued requests a replica below which one may go.
        down_utilisation: utilisation below which it then goes.
    """

    interval_s: float = 30.0
    up_queue: float = 10.0
    up_utilisation: float = 0.85
    down_queue: float = 2.0
    down_utilisation: float = 0.30

    def decide(self, view: FleetView) -> int:
        """One more, one fewer, or as many as there are."""
        here = view.serving + view.starting
        queue = view.queued / max(view.serving, 1)
        if queue > self.up_queue or view.utilisation > self.up_utilisation:
            return here + 1
        if queue < self.down_queue and view.utilisation < self.down_utilisation and not view.starting:
            return here - 1
        return here


@dataclass(slots=True)
class TargetUse:
    """As many as bring utilisation to a target: a horizontal pod autoscaler on CPU or GPU use.

    Attributes:
        target: utilisation to aim at, in (0, 1).
        tolerance: relative deviation that is left alone.
        interval_s: between decisions.
    """

    target: float = 0.6
    tolerance: float = 0.1
    interval_s: float = 30.0

    def decide(self, view: FleetView) -> int:
        """The serving replicas times measured over wanted utilisation, rounded up."""
        here = view.serving + view.starting
        ratio = view.utilisation / self.target
        if abs(ratio - 1.0) <= self.tolerance or view.starting:
            return here
        return max(1, math.ceil(view.serving * ratio - 1e-9))


@dataclass(slots=True)
class ResponseTime:
    """Up while the mean time to first token is above its target, down while it is far below.

    Attributes:
        target_s: mean TTFT to stay below.
        low_share: of the target below which one may go.
        interval_s: between decisions.
    """

    target_s: float = 1.0
    low_share: float = 0.2
    interval_s: float = 30.0

    def decide(self, view: FleetView) -> int:
        """One more, one fewer, or as many as there are; without a first token nobody knows."""
        here = view.serving + view.starting
        if view.ttft_s > self.target_s or (math.isnan(view.ttft_s) and view.queued > 0):
            return here + 1
        if view.ttft_s < self.low_share * self.target_s and not view.starting:
            return here - 1
        return here


@dataclass(slots=True)
class Predictive:
    """As many as the rate will need once a new replica has started.

    Source: inference basics document, prediction by trend and time of day.

    Attributes:
        tokens_per_replica_s: what one replica computes within its promise, > 0.
        ahead_s: how far to look, a replica's start-up time.
        headroom: replicas wanted over those needed, >= 1.
        forecast: of the tokens that arrive a second.
        interval_s: between decisions.
    """

    tokens_per_replica_s: float
    ahead_s: float = 60.0
    headroom: float = 1.2
    forecast: Forecast = field(default_factory=Forecast)
    interval_s: float = 30.0

    def decide(self, view: FleetView) -> int:
        """The most that is foretold until a new replica would serve, over what a replica serves, with headroom."""
        self.forecast.hear(view.now_s, view.tokens_per_s)
        foretold = self.forecast.at(view.now_s + self.ahead_s)
        return max(1, math.ceil(self.headroom * max(foretold, view.tokens_per_s) / self.tokens_per_replica_s))


@dataclass(slots=True)
class Clairvoyant:
    """As many as the requests that will in fact arrive need: the reference that no scaler beats but by luck.

    Attributes:
        starts_s: when each stretch of the future begins, ascending.
        tokens_per_s: tokens to compute that arrive a second in it.
        tokens_per_replica_s: what one replica computes within its promise, > 0.
        ahead_s: a replica's start-up time.
        headroom: replicas wanted over those needed, >= 1.
        interval_s: between decisions.
    """

    starts_s: Sequence[float]
    tokens_per_s: Sequence[float]
    tokens_per_replica_s: float
    ahead_s: float = 60.0
    headroom: float = 1.2
    interval_s: float = 30.0

    def decide(self, view: FleetView) -> int:
        """The most of what arrives from now until a replica that is added at the next decision would serve."""
        until_s = view.now_s + self.ahead_s + self.interval_s
        ends = [*self.starts_s[1:], math.inf]
        rates = [
            rate
            for start, end, rate in zip(self.starts_s, ends, self.tokens_per_s, strict=True)
            if start < until_s and end > view.now_s
        ]
        return max(1, math.ceil(self.headroom * max(rates, default=0.0) / self.tokens_per_replica_s))


SCALERS: dict[str, Callable[..., Scaler]] = {
    "queue-and-use": QueueAndUse,
    "target-use": TargetUse,
    "response-time": ResponseTime,
    "predictive": Predictive,
    "clairvoyant": Clairvoyant,
}
"""By the name that users type, with what builds each from its own options."""
