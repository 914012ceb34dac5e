"""The fleet tuner: how many replicas and with which limits, planned together from a latency model and a forecast.

A replica more is worth it while the requests that it lets be served within their SLO outweigh its cost. What is served
at a rate is the planner's estimate, corrected by what was seen; the rate is forecast, with the errors that forecasts
have had. Rates in requests per second.
"""

from __future__ import annotations

import math
from collections import deque
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field

import numpy as np
from numpy.typing import NDArray

from batchpilot.core.limits import Limits
from batchpilot.core.slo import SLO
from batchpilot.fleet.forecast import Forecast
from batchpilot.fleet.scalers import FleetView
from batchpilot.latency.model.saturation import SaturationParameters
from batchpilot.latency.planning.demand import Demand
from batchpilot.latency.planning.planner import Plan, plan, plan_at

COST_WEIGHT = 0.3
"""What a replica costs, as a share of the requests that it holds: the trade that `batchpilot/Fleet-v0` rewards."""

_LOADS = np.geomspace(0.1, 3.0, 24)
"""Rates at which a replica is looked at, over the one that it holds."""

_SURE = 0.1
"""Error of forecasts, as a share, before any was judged."""

_REMEMBERED = 40
_BELIEVED = 3
"""Forecasts of a spread of 30 % that came true: so much is believed in forecasts before any was judged."""

_LEAST_TRUST, _MOST_TRUST = 0.8, 1.5
_SLACK = 0.05
_LOSE, _GAIN = 0.95, 1.05
"""`_LOSE` and `_GAIN` were chosen on the first seed of the catalogued fleet scenarios, among six settings;
`_MOST_TRUST` on bursts, waves, steps and days of other lengths, rates and devices."""


@dataclass(frozen=True, eq=False)
class Kind:
    """What is believed of one kind of replica.

    Attributes:
        latency: of its steps.
        kv_capacity_tokens: KV tokens that fit.
        standing: replicas of it that stand, whatever is decided; not counted for kinds that are scaled.
        demand: lengths of the requests with what its prefix cache has of them; None for the tuner's.
    """

    latency: SaturationParameters
    kv_capacity_tokens: int
    standing: int = 0
    demand: Demand | None = None


@dataclass(frozen=True, slots=True)
class FleetPlan:
    """What a fleet should run with.

    Attributes:
        replicas: of the kinds that are scaled together, starting ones included.
        limits: by kind.
        rate_per_s: arrivals that are expected once a replica that is added now serves; NaN before any were heard of.
        attainment: share of them that is expected to be served within SLO; NaN likewise.
        reason: in words.
        by_kind: replicas of each kind, those that stand included.
    """

    replicas: int
    limits: tuple[Limits, ...]
    rate_per_s: float
    attainment: float
    reason: str
    by_kind: tuple[int, ...]


@dataclass(frozen=True, eq=False)
class _Curve:
    """A kind of replica at many rates: what it serves within SLO, and the limits that serve most."""

    held_per_s: float
    rates: NDArray[np.float64]
    attained: NDArray[np.float64]
    limits: tuple[Limits, ...]

    def attainment(self, rate: float) -> float:
        """Share served within SLO; beyond the last rate no more is served than there."""
        return float(np.interp(rate, self.rates, self.attained)) * min(1.0, float(self.rates[-1]) / rate)

    def limits_at(self, rate: float) -> Limits:
        return self.limits[min(int(np.searchsorted(self.rates, rate)), len(self.limits) - 1)]


def _curve(kind: Kind, demand: Demand, slo: SLO) -> _Curve:
    held = plan(kind.latency, demand, slo, kind.kv_capacity_tokens).rate_per_s
    found: list[tuple[Plan, float]] = [
        plan_at(kind.latency, demand, slo, kind.kv_capacity_tokens, held * load) for load in _LOADS
    ]
    return _Curve(
        held, held * _LOADS, np.array([share for _, share in found]), tuple(_guarded(one.limits) for one, _ in found)
    )


def _guarded(limits: Limits) -> Limits:
    """Planned limits where the guard alone refuses and the shortest prompt is next: past capacity that serves most."""
    return limits.replace(max_queued_tokens=None, discipline="spf")


@dataclass(slots=True)
class FleetTuner:
    """Plans replicas and limits together; `ask` for the plan, `tell` what was seen.

    It is a scaler, too: `decide` tells and asks, and a fleet puts the limits into force beside the number.

    Attributes:
        kinds: what is believed of each kind of replica, in the fleet's order.
        demand: lengths of requests as an operator has them from a log; some hundred stand for the mix.
        slo: the promise, both targets finite.
        least: fewest replicas of the kinds that are scaled together.
        most: most of them.
        ahead_s: a replica's start-up time.
        interval_s: between decisions.
        cost_weight: see `COST_WEIGHT`, >= 0.
        forecast: of the arrivals a second.
        scaled: most replicas of each kind whose number is decided, by its place, in the order in which a fleet adds to
            them; None for the first kind alone.

    Raises:
        ValueError: no kind, bounds that are none, a place that is none of a kind, or a promise that no replica keeps;
            the message says which.
    """

    kinds: Sequence[Kind]
    demand: Demand
    slo: SLO
    least: int = 1
    most: int = 8
    ahead_s: float = 60.0
    interval_s: float = 30.0
    cost_weight: float = COST_WEIGHT
    forecast: Forecast = field(default_factory=Forecast)
    scaled: Mapping[int, int] | None = None
    trust: float = field(default=1.0, init=False)
    """What replicas are seen to hold, over what the planner says."""
    _curves: list[_Curve] = field(init=False)
    _plan: FleetPlan = field(init=False)
    _judged: deque[tuple[float, float]] = field(default_factory=lambda: deque(maxlen=_REMEMBERED), init=False)
    _foretold: deque[tuple[float, float]] = field(default_factory=deque, init=False)
    _wanted: deque[int] = field(init=False)

    def __post_init__(self) -> None:
        if not self.kinds:
            raise ValueError("kinds is empty; give what is believed of at least one kind of replica")
        if not 1 <= self.least <= self.most:
            raise ValueError(f"least {self.least} and most {self.most} must be 1 <= least <= most")
        if not (self.cost_weight >= 0 and math.isfinite(self.cost_weight)):
            raise ValueError(f"cost_weight is {self.cost_weight}; it must be >= 0 and finite")
        wrong = [kind for kind in self.growing if not 0 <= kind < len(self.kinds)]
        if not self.growing or wrong:
            raise ValueError(f"scaled is {self.scaled}; it must name places of kinds, 0 to {len(self.kinds) - 1}")
        self._curves = [_curve(kind, kind.demand or self.demand, self.slo) for kind in self.kinds]
        self._wanted = deque(maxlen=1 + math.ceil(self.ahead_s / self.interval_s))
        held = tuple(curve.limits_at(curve.held_per_s) for curve in self._curves)
        numbers = self._numbers(self.least)
        self._plan = FleetPlan(self.least, held, math.nan, math.nan, "nothing was heard yet", tuple(numbers))

    @property
    def growing(self) -> Mapping[int, int]:
        """Most replicas of each kind whose number is decided, in the order in which they are added."""
        return {0: self.most} if self.scaled is None else self.scaled

    def ask(self) -> FleetPlan:
        """The plan in force; before anything was heard, the limits at the rate that each kind holds."""
        return self._plan

    def tell(self, view: FleetView) -> None:
        """Hear of an interval, and plan anew.

        Args:
            view: the fleet, its time ascending.
        """
        self._learn(view)
        self.forecast.hear(view.now_s, view.arrivals_per_s)
        at_s = view.now_s + self.ahead_s
        rate = max(self.forecast.at(at_s), 1e-6)
        self._foretold.append((at_s, rate))
        rates = self._likely(rate)
        rate = sum(rates) / len(rates)
        worth = {count: self._worth(count, rates) for count in range(self.least, self.most + 1)}
        best = max(worth, key=lambda count: (worth[count], -count))
        self._wanted.append(best)
        count = max(self._wanted)
        kept = "" if count == best else f", kept from {best} until that has been so for a start-up time"
        held = self.trust * self._curves[next(iter(self.growing))].held_per_s
        self._plan = FleetPlan(
            count,
            tuple(curve.limits_at(share / self.trust) for curve, share in self._shares(count, rate)),
            rate,
            self._attained(count, rate),
            f"{rate:.2f} requests a second expected, a replica holds {held:.2f}{kept}",
            tuple(self._numbers(count)),
        )

    def decide(self, view: FleetView) -> int:
        """The number of replicas of the plan after hearing a view.

        Args:
            view: the fleet.
        """
        self.tell(view)
        return self._plan.replicas

    def _learn(self, view: FleetView) -> None:
        """Judge the forecasts that are due, and what replicas hold by what they served."""
        while self._foretold and self._foretold[0][0] <= view.now_s:
            _, foretold = self._foretold.popleft()
            self._judged.append((foretold, view.arrivals_per_s))
        if math.isnan(view.slo_attainment) or not view.serving:
            return
        expected = self._attained(view.serving, max(view.arrivals_per_s, 1e-6))
        if view.slo_attainment < expected - _SLACK:
            self.trust = max(_LEAST_TRUST, self.trust * _LOSE)
        elif view.slo_attainment > expected:
            self.trust = min(_MOST_TRUST, self.trust * _GAIN)

    def _likely(self, foretold: float) -> list[float]:
        """Rates that may come where one is foretold, equally likely: forecasts count as far as they came true lately.

        What came is regressed on what was foretold (Mincer and Zarnowitz 1969): where forecasts tell nothing, as of
        bursts that are over when a replica has started, what came lately is as likely again, whatever is foretold.
        """
        shares = np.array([-_SURE, 0.0, _SURE])
        if not self._judged:
            return [float(rate) for rate in foretold * (1.0 + shares)]
        told, came = np.array(self._judged).T
        off = told - told.mean()
        prior = _BELIEVED * (0.3 * told.mean()) ** 2
        slope = min(max((float(off @ came) + prior) / (float(off @ off) + prior), 0.0), 1.0)
        expected = came.mean() + slope * (foretold - told.mean())
        errors = came - (came.mean() + slope * off)
        rates = expected + np.concatenate([errors, shares * expected])
        return [max(float(rate), 1e-6) for rate in rates]

    def _worth(self, count: int, rates: Sequence[float]) -> float:
        """Requests a second served within SLO by so many, over the rates that may come, minus their cost."""
        served = [rate * self._attained(count, rate) for rate in rates]
        numbers = self._numbers(count)
        bought = sum(numbers[kind] * self._curves[kind].held_per_s for kind in self.growing)
        return sum(served) / len(served) - self.cost_weight * bought

    def _numbers(self, count: int) -> list[int]:
        """Replicas of each kind where so many of those that are scaled are filled up in their order."""
        numbers, left = [kind.standing for kind in self.kinds], count
        for kind, most in self.growing.items():
            numbers[kind] = min(left, most)
            left -= numbers[kind]
        return numbers

    def _attained(self, count: int, rate: float) -> float:
        """Share of the requests served within SLO, each kind taking as much as it holds."""
        if rate <= 0:
            return 1.0
        return (
            sum(
                number * share * curve.attainment(share / self.trust)
                for number, (curve, share) in zip(self._numbers(count), self._shares(count, rate), strict=True)
            )
            / rate
        )

    def _shares(self, count: int, rate: float) -> list[tuple[_Curve, float]]:
        """What each replica of each kind gets of a rate."""
        pairs = zip(self._numbers(count), self._curves, strict=True)
        together = sum(number * curve.held_per_s for number, curve in pairs)
        return [(curve, rate * curve.held_per_s / together) for curve in self._curves]
