"""A leaderboard of fleets: cells, seeds and files as those of engines; strategies route, scale and set limits."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

from batchpilot.configs.fleet_scenario import FleetScenario
from batchpilot.core.provenance import config_hash, git_revision, versions
from batchpilot.envs.fleet.prepared import PreparedFleet, prepare_fleet
from batchpilot.envs.fleet.rewards import COST_WEIGHT
from batchpilot.fleet.result import FleetResult
from batchpilot.fleet.scalers import Scaler
from batchpilot.runners.fleet.strategies import Strategy, expand, parse
from batchpilot.runners.leaderboard.evaluation import Cell, Row

TRACK = "fleet"


@dataclass(frozen=True)
class FleetTask:
    """What one cell computes.

    Attributes:
        scenario: where.
        seed: of it.
        strategies: names as `strategies.parse` knows them.
    """

    scenario: FleetScenario
    seed: int
    strategies: tuple[str, ...]

    @property
    def fingerprint(self) -> str:
        """Changes whenever the cell's numbers might."""
        return config_hash([self.scenario.model_dump(), self.seed, self.strategies, git_revision(), versions()])

    def run(self) -> Cell:
        """Run every strategy on the same requests.

        Raises:
            ValueError: a device does not hold the model, or no replica keeps the promise that a tuner plans for.
        """
        prepared: dict[str, PreparedFleet] = {}
        rows: list[Row] = []
        for strategy in map(parse, self.strategies):
            if strategy.limits not in prepared:
                prepared[strategy.limits] = prepare_fleet(self.scenario, self.seed, strategy.make)
            run = prepared[strategy.limits]
            played = [self._row(strategy, begun, scaler) for begun, scaler in strategy.ways(run)]
            rows.append(max(played, key=lambda row: row["net_value"]))
        return Cell(rows, {})

    def _row(self, strategy: Strategy, prepared: PreparedFleet, scaler: Scaler | None) -> Row:
        fleet = prepared.fleet(strategy.router(), scaler)
        fleet.run_until(prepared.offer.horizon_ms)
        result = fleet.result()
        where = {
            "scenario": self.scenario.name,
            "family": self.scenario.family,
            "replicas": " ".join(f"{count}x{device}" for device, count in self.scenario.replicas.items()),
            "bounds": f"{self.scenario.least}-{self.scenario.most}",
            "model": self.scenario.model,
            "latency": prepared.offer.latency,
            "load": round(prepared.offer.load, 4),
            "track": TRACK,
            "tuner": strategy.name,
            "seed": self.seed,
        }
        return (
            where
            | figures(result, prepared)
            | {
                "config_hash": config_hash(self.scenario.model_dump()),
                "git_revision": git_revision(),
                "versions": " ".join(f"{package}={version}" for package, version in versions().items()),
            }
        )


def figures(result: FleetResult, prepared: PreparedFleet) -> dict[str, Any]:
    """What tables print of a run, and its net value.

    Args:
        result: of the run.
        prepared: what was run.
    """
    offer = prepared.offer
    paid_s = prepared.paid_replica_s(result.spans)
    offered = float(offer.requests.output_tokens.sum())
    cost = COST_WEIGHT * offer.capacity_output_tokens_per_s * paid_s
    return result.summary() | {
        "net_value": result.served.goodput_fraction - cost / offered,
        "replicas_mean": 1000.0 * paid_s / result.served.elapsed_ms,
    }


@dataclass(frozen=True)
class FleetLeaderboard:
    """What is to be compared.

    Attributes:
        scenarios: where.
        tuners: strategies as typed; "default", or none at all, stands for the usual ones, "all" for every router and
            scaler.
        seeds: number of seeds.
        first_seed: the first of them.

    Raises:
        ValueError: an unknown strategy, or no seed.
    """

    scenarios: tuple[FleetScenario, ...]
    tuners: tuple[str, ...] = ()
    seeds: int = 3
    first_seed: int = 0

    def __post_init__(self) -> None:
        expand(self.tuners)
        if self.seeds < 1:
            raise ValueError(f"seeds is {self.seeds}; at least 1 is needed, and 3 for an interval worth reading")

    @property
    def track(self) -> str:
        """Replicas, routing and limits may be decided."""
        return TRACK

    @property
    def strategies(self) -> tuple[str, ...]:
        """The strategies that run, without doubles."""
        return expand(self.tuners)

    def content(self) -> dict[str, Any]:
        """What is compared, as plain data."""
        return {
            "scenarios": [one.model_dump() for one in self.scenarios],
            "track": TRACK,
            "tuners": self.strategies,
            "cost_weight": COST_WEIGHT,
        }

    def tasks(self) -> list[FleetTask]:
        """One task for every scenario and seed, in order."""
        return [
            FleetTask(scenario, seed, self.strategies)
            for scenario in self.scenarios
            for seed in range(self.first_seed, self.first_seed + self.seeds)
        ]
