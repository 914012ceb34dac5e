"""What episodes of a fleet are made of; the single and the parallel environment share it."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np

from batchpilot.baselines.static import SERVER_DEFAULT
from batchpilot.configs.fleet_scenario import FleetScenario, fleet_scenario, fleet_scenario_names
from batchpilot.core.limits import Limits
from batchpilot.core.names import lookup
from batchpilot.envs.fleet.prepared import PreparedFleet, prepare_fleet
from batchpilot.envs.fleet.references import episode
from batchpilot.envs.fleet.rewards import FleetReward, GoodputMinusCost, OwnFleetReward
from batchpilot.envs.fleet.run import POLL_MS, FleetRun, checked_interval_ms
from batchpilot.fleet.routers import Router

ScenarioLike = str | FleetScenario | Sequence[str | FleetScenario]

OPTIONS = ("scenario", "workload_seed")
"""What `reset` takes in place of draws."""


class FleetTask:
    """Which runs there are, what routes them, what is rewarded.

    Args:
        scenario: a fleet scenario, its name, or several; each episode draws one. All
            must have rows of the same kinds, so that the spaces stay the same.
        base: limits of every replica at the start; None for what servers ship.
        router: who takes a request; None for the least waiting tokens, seen once a second.
        reward: None for `GoodputMinusCost()`, or a function from an interval and what is run to a finite number.
        interval_s: fleet time of one step, a multiple of 5 s; None takes the scenario's.

    Attributes:
        scenarios: what episodes are drawn from.
        kinds: the kind of each row.

    Raises:
        ValueError: an unknown scenario, none, scenarios whose rows differ, or an interval that is no such multiple.
    """

    def __init__(
        self,
        scenario: ScenarioLike,
        *,
        base: Limits | None = None,
        router: Router | None = None,
        reward: FleetReward | None = None,
        interval_s: float | None = None,
    ) -> None:
        self.scenarios = _resolve(scenario)
        first = self.scenarios[0]
        for other in self.scenarios[1:]:
            if (_rows(other), other.least) != (_rows(first), first.least):
                raise ValueError(
                    f"fleet scenarios {first.name} and {other.name} have other rows or bounds; take those that agree"
                )
        self.kinds = _rows(first)
        self.base = SERVER_DEFAULT if base is None else base
        self.router = Router("least-tokens", poll_ms=POLL_MS) if router is None else router
        self.reward: FleetReward = GoodputMinusCost() if reward is None else OwnFleetReward(reward)
        self._interval_ms = None if interval_s is None else checked_interval_ms(1000.0 * interval_s)

    def draw(self, rng: np.random.Generator, options: Mapping[str, Any] | None = None) -> PreparedFleet:
        """The run of the next episode.

        Args:
            rng: where scenario and workload seed are drawn from.
            options: "scenario" (one of the task's, by name) and "workload_seed" in place of the draws.

        Raises:
            ValueError: an unknown option, or a scenario that is not the task's.
        """
        options = options or {}
        for name in options:
            lookup(dict.fromkeys(OPTIONS), name, "reset option")
        chosen = self.scenarios[int(rng.integers(len(self.scenarios)))]
        if "scenario" in options:
            by_name = {one.name: one for one in self.scenarios}
            chosen = lookup(by_name, options["scenario"], "scenario of this environment")
        seed = int(rng.integers(2**31))
        return prepare_fleet(chosen, int(options.get("workload_seed", seed)), lambda run, _: self.base)

    def start(self, prepared: PreparedFleet) -> FleetRun:
        """Begin a run.

        Args:
            prepared: the run.
        """
        return FleetRun(prepared, self.router, self._interval_ms)

    def episode(self, run: FleetRun, rewards: float, decisions: int) -> dict[str, Any]:
        """What info tells when an episode ends, see `references.episode`.

        Args:
            run: what was played, at its end.
            rewards: their sum.
            decisions: steps taken.
        """
        return episode(run, rewards, decisions, self.reward, lambda prepared: self.start(prepared))


def _rows(scenario: FleetScenario) -> list[int]:
    """The kind of each row of a scenario's fleet."""
    ready = list(scenario.replicas.items())
    most = scenario.scaled or {ready[0][0]: scenario.most}
    standing = [k for k, (_, count) in enumerate(ready) for _ in range(count)]
    added = {k: min(most.get(name, 0), scenario.most) - count for k, (name, count) in enumerate(ready)}
    return standing + [k for k, more in added.items() for _ in range(more)]


def _resolve(given: ScenarioLike) -> tuple[FleetScenario, ...]:
    several = [given] if isinstance(given, str | FleetScenario) else list(given)
    found = [fleet_scenario(one) if isinstance(one, str) else one for one in several]
    if not found:
        raise ValueError(f"no fleet scenario to draw from in {given!r}; there are {', '.join(fleet_scenario_names())}")
    return tuple(found)
