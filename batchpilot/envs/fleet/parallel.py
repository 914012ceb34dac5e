"""`FleetParallelEnv`: the fleet as PettingZoo's parallel form, one agent for each place of a replica.

Needs pettingzoo (extra `rl`), which nothing else of the package imports.
"""

from __future__ import annotations

from typing import Any

import gymnasium as gym
import numpy as np
from numpy.typing import NDArray

from batchpilot.core.limits import Limits
from batchpilot.envs.fleet.actions import BATCH_FACTORS, WEIGHT_FACTORS, scaled
from batchpilot.envs.fleet.observing import FLEET_FEATURES, REPLICA_FEATURES, bounds, observe
from batchpilot.envs.fleet.rewards import FleetReward, GoodputMinusCost
from batchpilot.envs.fleet.run import Decision, FleetRun, Interval
from batchpilot.envs.fleet.task import OPTIONS, FleetTask, ScenarioLike
from batchpilot.fleet.routers import Router

try:
    from pettingzoo import ParallelEnv
except ImportError as error:  # pragma: no cover - depends on what is installed
    raise ImportError("the parallel form needs pettingzoo: pip install 'batchpilot[rl]'") from error

_WHOLE = len(FLEET_FEATURES)
_LOAD = [feature.name for feature in FLEET_FEATURES].index("load")

Observations = dict[str, NDArray[np.float32]]


class FleetParallelEnv(ParallelEnv[str, NDArray[np.float32], Any]):
    """One agent a row of the fleet: whether a replica is wanted there, its weight, its batch size.

    Steps, episodes, scenarios and references are those of `FleetEnv`. All agents act throughout: one whose row has no
    replica may ask for one.

    **Observation.** The fleet's features, then those of the agent's own row, shape (24,).

    **Action.** `MultiDiscrete([2, weights, batch sizes])`: 1 votes for a replica; as many of the first kind are kept as
    agents of its rows vote for, within the scenario's bounds (which row starts or drains is the fleet's choice, votes
    of other kinds change nothing); a notch of `actions.WEIGHT_FACTORS`, and one of `actions.BATCH_FACTORS`.

    **Reward.** The agent's own part of `GoodputMinusCost`: tokens that its row served within SLO minus what its
    replica cost, counted in replicas; with a function of the user's own, every agent gets what it gives.

    **Info.** "scenario" and "seed"; at the end "episode", as `FleetEnv` tells it, its "r" the sum over all agents.

    Args:
        scenario: a fleet scenario, its name, or several to draw from whose rows agree.
        base: limits of every replica at the start; None for what servers ship (256, 2048).
        router: who takes a request; None for the least waiting tokens over weight, seen once a second.
        reward: None, or a function from `Interval` and `PreparedFleet` to a finite number.
        cost_weight: what a replica costs where no reward is given, >= 0.
        interval_s: fleet time of a step, a multiple of 5 s; None takes the scenario's.

    Raises:
        ValueError: an argument is unknown or outside its bound; the message names it.
    """

    metadata: dict[str, Any] = {"render_modes": [], "name": "batchpilot_fleet_v0"}  # noqa: RUF012 (PettingZoo's way)

    def __init__(
        self,
        scenario: ScenarioLike = "fleet-step",
        *,
        base: Limits | None = None,
        router: Router | None = None,
        reward: FleetReward | None = None,
        cost_weight: float | None = None,
        interval_s: float | None = None,
    ) -> None:
        self._own = GoodputMinusCost() if cost_weight is None else GoodputMinusCost(cost_weight)
        self._shared = reward is not None
        self.task = FleetTask(
            scenario, base=base, router=router, reward=reward if self._shared else self._own, interval_s=interval_s
        )
        self.render_mode = None
        self.possible_agents = [f"replica_{i}" for i in range(len(self.task.kinds))]
        self.agents: list[str] = []
        low, high = bounds(1)
        factors = [2, len(WEIGHT_FACTORS), len(BATCH_FACTORS)]
        self.observation_spaces = {agent: gym.spaces.Box(low, high, dtype=np.float32) for agent in self.possible_agents}
        self.action_spaces = {agent: gym.spaces.MultiDiscrete(factors) for agent in self.possible_agents}
        self._rng = np.random.default_rng()
        self._run: FleetRun | None = None

    def observation_space(self, agent: str) -> gym.spaces.Box:
        """What an agent sees.

        Args:
            agent: its name.
        """
        return self.observation_spaces[agent]

    def action_space(self, agent: str) -> gym.spaces.MultiDiscrete:
        """What an agent may do.

        Args:
            agent: its name.
        """
        return self.action_spaces[agent]

    def reset(
        self, seed: int | None = None, options: dict[str, Any] | None = None
    ) -> tuple[Observations, dict[str, dict[str, Any]]]:
        """Begin an episode.

        Args:
            seed: draws this episode and the following ones; None goes on drawing.
            options: "scenario" and "workload_seed" in place of the draws; PettingZoo wants others to be passed over.

        Raises:
            ValueError: an unknown scenario.
        """
        if seed is not None:
            self._rng = np.random.default_rng(seed)
        known = {name: value for name, value in (options or {}).items() if name in OPTIONS}
        self._run = self.task.start(self.task.draw(self._rng, known))
        self.agents = list(self.possible_agents)
        self._rewards, self._decisions = 0.0, 0
        self._seen = observe(self._run, None, 0.0)
        return self._observations(), {agent: self._info() for agent in self.agents}

    def step(
        self, actions: dict[str, Any]
    ) -> tuple[Observations, dict[str, float], dict[str, bool], dict[str, bool], dict[str, dict[str, Any]]]:
        """Let every agent decide, and run one interval.

        Args:
            actions: of every agent, in its action space.

        Returns:
            Observations, rewards, whether every request has ended, whether the time was up before, infos; by agent.

        Raises:
            ValueError: an agent has no action, or one outside its space.
            RuntimeError: there was no `reset`, or the episode is over.
        """
        if self._run is None or not self.agents:
            raise RuntimeError("reset must be called before step, and after an episode's end")
        run = self._run
        interval = run.step(self._decision(run, actions))
        self._seen = observe(run, interval, float(self._seen[_LOAD]))
        rewards = self._shares(run, interval)
        self._rewards += sum(rewards)
        self._decisions += 1
        cut = not run.done and run.over
        infos = {agent: self._info() for agent in self.agents}
        if run.done or cut:
            told = self.task.episode(run, self._rewards, self._decisions)
            for info in infos.values():
                info["episode"] = told
        found = (
            self._observations(),
            dict(zip(self.agents, rewards, strict=True)),
            dict.fromkeys(self.agents, run.done),
            dict.fromkeys(self.agents, cut),
            infos,
        )
        if run.done or cut:
            self.agents = []
        return found

    def render(self) -> None:
        """There is nothing to see."""

    def close(self) -> None:
        """There is nothing to close."""

    def _decision(self, run: FleetRun, actions: dict[str, Any]) -> Decision:
        votes, weights, limits = 0, {}, {}
        growing = run.prepared.growing
        for i, agent in enumerate(self.possible_agents):
            if agent not in actions:
                raise ValueError(f"{agent} has no action; every agent acts, also one without a replica")
            given = np.asarray(actions[agent])
            space = self.action_space(agent)
            if given.dtype.kind not in "iu" or not space.contains(given.astype(space.dtype)):
                raise ValueError(f"action of {agent} is {actions[agent]!r}; it must be in {space}")
            spec = run.prepared.offer.specs[run.prepared.kinds[i]]
            votes += int(given[0]) if run.prepared.kinds[i] in growing else 0
            weights[i] = spec.weight * WEIGHT_FACTORS[int(given[1])]
            assert isinstance(spec.limits, Limits)
            limits[i] = scaled(spec.limits, BATCH_FACTORS[int(given[2])])
        return Decision(replicas=votes, weights=weights, limits=limits)

    def _shares(self, run: FleetRun, interval: Interval) -> list[float]:
        if self._shared:
            return [self.task.reward(interval, run.prepared)] * len(self.agents)
        return self._own.by_row(interval, run.prepared)

    def _observations(self) -> Observations:
        rows = self._seen[_WHOLE:].reshape(len(self.possible_agents), len(REPLICA_FEATURES))
        whole = self._seen[:_WHOLE]
        return {agent: np.concatenate([whole, rows[i]]) for i, agent in enumerate(self.possible_agents)}

    def _info(self) -> dict[str, Any]:
        assert self._run is not None
        return {"scenario": self._run.prepared.scenario.name, "seed": self._run.prepared.seed}
