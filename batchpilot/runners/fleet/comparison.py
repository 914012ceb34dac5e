"""Every way to route and to scale a fleet, each on the same requests."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, NamedTuple

from batchpilot.configs.catalogue import device as find_device
from batchpilot.configs.scenario import Scenario
from batchpilot.core.limits import Limits
from batchpilot.core.names import lookup
from batchpilot.core.tuner import Tuner
from batchpilot.engines.simulated.fairness import fairness
from batchpilot.envs.fleet.offering import Offer, offer, rates
from batchpilot.envs.fleet.splitting import link_for, split
from batchpilot.envs.scenarios import PreparedRun
from batchpilot.fleet.routers import RULES, Router
from batchpilot.fleet.scalers import SCALERS, Clairvoyant, Predictive, Scaler
from batchpilot.fleet.scaling import cheapest_first, scaled_kinds
from batchpilot.fleet.simulation import simulate_fleet
from batchpilot.fleet.spec import ReplicaSpec
from batchpilot.runners.fleet.strategies import NONE, PLANNED, SPLIT, limits_by, planner
from batchpilot.runners.progress import ToldProgress

SCALER_NAMES = (NONE, *SCALERS, PLANNED)

_SLOT_S = 30.0
"""Width of the slots whose rates the clairvoyant scaler knows."""


class Way(NamedTuple):
    """A way to run a fleet: a rule of routing, the age of its view in ms, and who scales."""

    rule: str
    age_ms: float
    scaler: str


Runs = dict[Way, list[dict[str, Any]]]
"""Figures of each way, a run a seed."""


def ways_of(
    rules: Sequence[str] | None, ages_ms: Sequence[float] | None, scalers: Sequence[str] | None, *, splits: bool
) -> list[Way]:
    """The ways that are compared.

    Args:
        rules: of routing, as typed; none for all.
        ages_ms: of the router's view, as typed; none for a fresh one.
        scalers: as typed; none for no scaler.
        splits: whether the same replicas are also split into pools.

    Raises:
        ValueError: a name is unknown.
    """
    chosen = list(rules or RULES)
    who = list(scalers or [NONE])
    for name in chosen:
        lookup(RULES, name, "routing rule")
    for name in who:
        lookup(dict.fromkeys(SCALER_NAMES), name, "scaler")
    if splits:
        who.append(SPLIT)
    return [Way(rule, age_ms, how) for rule in chosen for age_ms in ages_ms or [0.0] for how in who]


def parse_replicas(texts: Sequence[str], default: str) -> list[tuple[str, int]]:
    """Devices and numbers as typed: `4`, `H100:2`, `A100-80GB`.

    Args:
        texts: one a kind.
        default: the device where only a number is given.

    Raises:
        ValueError: a number is not a whole number from 1, or the device is unknown.
    """
    kinds = []
    for text in texts:
        name, _, number = (
            text.rpartition(":") if ":" in text else (("", "", text) if text.isdigit() else (text, "", "1"))
        )
        if not number.isdigit() or int(number) < 1:
            raise ValueError(f"--replicas {text}: {number!r} must be a whole number of replicas, at least 1")
        kinds.append((find_device(name or default).name, int(number)))
    return kinds


@dataclass(frozen=True)
class Growing:
    """How far a fleet may grow, and how long that takes.

    Attributes:
        least: fewest replicas.
        most: most of them.
        startup_s: until one that is added serves.
        kinds: that are added to, and most of each; None for the first.
    """

    least: int
    most: int
    startup_s: float
    kinds: Mapping[str, int] | None

    def cheapest(self, offered: Offer) -> dict[str, int] | None:
        """The kinds, the cheapest first.

        Args:
            offered: whose replicas they are.

        Raises:
            ValueError: one of them is not among the replicas.
        """
        if self.kinds is None:
            return None
        for name in self.kinds:
            lookup({spec.name: spec for spec in offered.specs}, name, "kind of replica")
        return {name: self.kinds[name] for name in cheapest_first(offered.specs, list(self.kinds))}

    def scaler(self, name: str, offered: Offer, scaled: Mapping[str, int] | None) -> Scaler | None:
        """Who scales.

        Args:
            name: one of `SCALER_NAMES`, or `SPLIT`.
            offered: what arrives, and at which replicas.
            scaled: kinds that are added to, and most of each.

        Raises:
            ValueError: a kind cannot be scaled so.
        """
        if name in (NONE, SPLIT):
            return None
        growing = scaled_kinds(offered.specs, scaled, self.most)
        first, added = offered.specs[0], offered.specs[next(iter(growing))]
        capacity = offered.capacity_tokens_per_s * (added.weight / first.weight)
        if name == "predictive":
            return Predictive(capacity, ahead_s=self.startup_s)
        if name == "clairvoyant":
            return Clairvoyant(*rates(offered, _SLOT_S), capacity, ahead_s=self.startup_s)
        if name == PLANNED:
            return planner(
                offered.specs,
                offered.requests,
                least=self.least,
                most=self.most,
                startup_s=self.startup_s,
                scaled=growing,
            )
        return SCALERS[name]()


class _Drawn(NamedTuple):
    """What one seed offers: the replicas whole and in pools, and the kinds that may grow."""

    offered: Offer
    pools: list[ReplicaSpec] | None
    scaled: dict[str, int] | None


@dataclass(frozen=True)
class Comparison:
    """What every way is compared on.

    Attributes:
        scenario: what one replica is asked to serve, or a trace for all.
        kinds: device and number of replicas.
        prefill: replicas of each kind that prefill where they are split; None for no such way.
        growing: how far the fleet may grow.
        limits: of each replica; None for a tuner's.
        tuner: of each replica otherwise.
        load: share of what the replicas serve together; None for as much as the scenario asks.
        counts_sent: whether routers count what they sent since the last poll.
        link_gb_per_s: at which a replica sends or takes KV.
        link_ms: from the last byte until decoding may begin.
    """

    scenario: Scenario
    kinds: Sequence[tuple[str, int]]
    prefill: Mapping[str, int] | None
    growing: Growing
    limits: Limits | None
    tuner: str
    load: float | None
    counts_sent: bool
    link_gb_per_s: float
    link_ms: float

    def run(self, ways: Sequence[Way], seeds: int) -> tuple[Runs, Offer]:
        """Serve the requests of every seed in every way, with a bar.

        Args:
            ways: that are compared.
            seeds: of workload, noise and draws.

        Returns:
            Figures of each way, and what the first seed offered.

        Raises:
            ValueError: the fleet cannot be made as it was asked for.
        """
        runs: Runs = {way: [] for way in ways}
        offers = []
        with ToldProgress() as progress:
            bar = progress.add_task("simulating", total=seeds * len(ways))
            for seed in range(seeds):
                drawn = self._draw(seed)
                offers.append(drawn.offered)
                for way in ways:
                    told = f"seed {seed}: {way.rule}, view {way.age_ms:g} ms old, scaler {way.scaler}"
                    progress.update(bar, description=told)
                    runs[way].append(self._serve(way, drawn, seed))
                    progress.update(bar, advance=1)
        return runs, offers[0]

    def stated(self, offered: Offer) -> dict[str, Any]:
        """What was asked, in words.

        Args:
            offered: by the first seed.
        """
        share = f"{offered.load:.0%} of the replicas' capacity"
        told: dict[str, Any] = {
            "load": f"{self.scenario.name}, {len(offered.requests):,} requests, {share}",
            "replicas": _numbers(self.kinds),
        }
        if self.prefill is not None:
            moved = f"KV moves at {self.link_gb_per_s:g} GB/s, then {self.link_ms:g} ms"
            told["split"] = f"{_numbers(list(self.prefill.items()))} prefill, the others decode; {moved}"
        return told | {"model": self.scenario.model, "latency": offered.latency}

    def _draw(self, seed: int) -> _Drawn:
        offered = offer(self.scenario, self.kinds, self._make, seed, self.load, self.growing.startup_s)
        pools = None if self.prefill is None else split(offered.specs, self.prefill)
        return _Drawn(offered, pools, self.growing.cheapest(offered))

    def _serve(self, way: Way, drawn: _Drawn, seed: int) -> dict[str, Any]:
        """Figures of one run."""
        offered, growing = drawn.offered, self.growing
        result = simulate_fleet(
            offered.requests,
            drawn.pools if way.scaler == SPLIT and drawn.pools is not None else offered.specs,
            Router(way.rule, poll_ms=way.age_ms, counts_sent=self.counts_sent),
            link=link_for(self.scenario.model, self.link_gb_per_s, self.link_ms),
            scaler=growing.scaler(way.scaler, offered, drawn.scaled),
            scaled=drawn.scaled,
            least=growing.least,
            most=growing.most,
            horizon_ms=offered.horizon_ms,
            seed=seed,
        )
        return result.summary() | {"fairness": fairness(result.served), "seed": seed}

    def _make(self, run: PreparedRun, seed: int) -> Limits | Tuner:
        """What a replica runs with."""
        return limits_by(self.tuner, run, seed) if self.limits is None else self.limits


def _numbers(kinds: Sequence[tuple[str, int]]) -> str:
    return ", ".join(f"{number} x {name}" for name, number in kinds)
