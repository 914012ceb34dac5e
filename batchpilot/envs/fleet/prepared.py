"""A fleet scenario at one seed: what arrives, the replicas, and what they cost. Times in ms."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass, field, replace

from batchpilot.configs.fleet_scenario import FleetScenario
from batchpilot.core.limits import Limits
from batchpilot.envs.fleet.offering import Make, Offer, offer
from batchpilot.envs.fleet.splitting import link_for, split
from batchpilot.fleet.replicas import Span
from batchpilot.fleet.routers import Router
from batchpilot.fleet.scalers import Scaler
from batchpilot.fleet.scaling import cheapest_first, rows_of, scaled_kinds
from batchpilot.fleet.simulation import Fleet
from batchpilot.fleet.spec import Fault, Link

WINDOW_MS, TUNED_WINDOW_MS = 5000.0, 1000.0
"""How often replicas are measured, and where each has a tuner that wants to hear of it."""


@dataclass(frozen=True, eq=False)
class PreparedFleet:
    """A fleet scenario at one seed, ready to be run by any number of strategies on the same requests.

    Attributes:
        scenario: where it comes from.
        seed: of requests, noise and draws.
        offer: what arrives, and the replicas.
        faults: what befalls them.
        link: between replicas that prefill and those that decode, None where all serve whole requests.
    """

    scenario: FleetScenario
    seed: int
    offer: Offer
    faults: Sequence[Fault] = field(default=())
    link: Link | None = None

    @property
    def rows(self) -> int:
        """Replicas that may exist at once."""
        return len(self.kinds)

    @property
    def kinds(self) -> list[int]:
        """The kind of each row, in the fleet's order."""
        return rows_of(self.offer.specs, self.growing)

    @property
    def ready(self) -> int:
        """Replicas of the kinds that are scaled that stand ready at the start."""
        return sum(self.offer.specs[kind].count for kind in self.growing)

    @property
    def added_tokens_per_s(self) -> float:
        """Prompt and output tokens a second that a replica of the kind that is added first serves, estimated."""
        first, added = self.offer.specs[0], self.offer.specs[next(iter(self.growing))]
        return self.offer.capacity_tokens_per_s * (added.weight / first.weight)

    @property
    def growing(self) -> dict[int, int]:
        """Kinds that are scaled, as `scaled_kinds` tells them."""
        return scaled_kinds(self.offer.specs, self.scaled, self.scenario.most)

    @property
    def scaled(self) -> dict[str, int] | None:
        """Most replicas of each kind that is scaled, the cheapest a served token first; None for the first kind."""
        most = self.scenario.scaled
        return most and {name: most[name] for name in cheapest_first(self.offer.specs, list(most))}

    def standing(self, count: int) -> PreparedFleet:
        """The same with another number of replicas at the start of the kinds that are scaled, in their order.

        Args:
            count: how many, between the scenario's bounds.
        """
        counts, left = {}, count
        for kind, most in self.growing.items():
            counts[kind] = min(left, most)
            left -= counts[kind]
        specs = [replace(spec, count=counts.get(kind, spec.count)) for kind, spec in enumerate(self.offer.specs)]
        return replace(self, offer=replace(self.offer, specs=specs))

    def split(self) -> PreparedFleet:
        """The same with the replicas split as the scenario says; as it is where that says nothing."""
        pools = self.scenario.pools
        if pools is None:
            return self
        link = link_for(self.scenario.model, pools.bandwidth_gb_per_s, pools.latency_ms)
        return replace(self, offer=replace(self.offer, specs=split(self.offer.specs, pools.prefill)), link=link)

    def fleet(self, router: Router, scaler: Scaler | None) -> Fleet:
        """A fleet that is about to begin.

        Args:
            router: who takes a request.
            scaler: how many replicas there should be.
        """
        return Fleet(
            self.offer.requests,
            self.offer.specs,
            router,
            link=self.link,
            scaler=scaler,
            bounds=(self.scenario.least, self.scenario.most),
            scaled=self.scaled,
            faults=self.faults,
            window_ms=WINDOW_MS if all(isinstance(one.limits, Limits) for one in self.offer.specs) else TUNED_WINDOW_MS,
            seed=self.seed,
        )

    def usd_an_hour(self, kind: int) -> float:
        """Dollars that a replica of a kind costs an hour, NaN where its device has no price.

        Args:
            kind: its place among the kinds.
        """
        spec = self.offer.specs[kind]
        return math.nan if spec.usd_per_device_hour is None else spec.devices * spec.usd_per_device_hour

    def price(self, kind: int) -> float:
        """What a replica of a kind costs: money where every kind has a price above 0, else devices.

        Args:
            kind: its place among the kinds.
        """
        priced = all(self.usd_an_hour(k) > 0 for k in range(len(self.offer.specs)))
        return self.usd_an_hour(kind) if priced else float(self.offer.specs[kind].devices)

    def paid_replica_s(self, spans: Sequence[Span]) -> float:
        """Seconds that replicas were paid for, in the price of one of the first kind.

        Args:
            spans: lives of replicas, ended.
        """
        return sum((span.until_ms - span.from_ms) * self.price(span.spec) for span in spans) / self.price(0) / 1000.0


def prepare_fleet(scenario: FleetScenario, seed: int, make: Make) -> PreparedFleet:
    """Draw what arrives at a fleet, and configure its replicas.

    Args:
        scenario: a catalogued or loaded fleet scenario.
        seed: equal seeds give equal runs.
        make: limits or tuner of each replica, from the run of its engine and a seed.

    Raises:
        ValueError: a device does not hold the model.
    """
    offered = offer(scenario.each, list(scenario.replicas.items()), make, seed, None, scenario.startup_s)
    faults = [
        Fault(
            1000.0 * one.at_s,
            one.replica,
            one.kind,
            math.inf if one.lasting_s is None else 1000.0 * one.lasting_s,
            one.factor,
        )
        for one in scenario.failures
    ]
    return PreparedFleet(scenario, seed, offered, faults)
