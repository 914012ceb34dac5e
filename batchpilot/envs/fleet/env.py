"""`FleetEnv`: a fleet whose replicas, routing and limits an agent decides, one interval at a time."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import asdict
from typing import Any

import gymnasium as gym
import numpy as np
from numpy.typing import NDArray

from batchpilot.core.limits import Limits
from batchpilot.envs.fleet.actions import FleetActions
from batchpilot.envs.fleet.observing import FLEET_FEATURES, bounds, observe
from batchpilot.envs.fleet.rewards import FleetReward
from batchpilot.envs.fleet.run import FleetRun, Interval
from batchpilot.envs.fleet.task import FleetTask, ScenarioLike
from batchpilot.fleet.routers import Router

_LOAD = [feature.name for feature in FLEET_FEATURES].index("load")


class FleetEnv(gym.Env[NDArray[np.float32], Any]):
    """Decide how many replicas a fleet has, how requests are routed and what limits hold.

    **Step.** One interval of fleet time (30 s unless the scenario says otherwise). Replicas that are added take their
    start-up time, those that go finish what they have, and both are paid for.

    **Observation.** `Box` of `observing.FLEET_FEATURES`, then `observing.REPLICA_FEATURES` of every row that may hold a
    replica: ratios over the last interval.

    **Action.** `MultiDiscrete`, see `actions.FleetActions`: the number of replicas of the first kind, the rule of
    routing, a weight a row, a batch size a kind; `fields` says which.

    **Reward.** Tokens served within SLO minus what the replicas cost, both counted in replicas, see
    `rewards.GoodputMinusCost`; or a function of the user's own.

    **Episode.** `reset(seed)` draws scenario and workload from the seed alone. It terminates when every request has
    ended and is truncated 30 s after the last arrival. `reset(options={"scenario": name, "workload_seed": seed})` plays
    a given run.

    **Info.** "view" (what scalers see; a mean without a sample is left out), "good_tokens", "usd", "replicas" (paid for
    on average), "scenario", "seed". The last one of an episode also holds "episode", see `references.episode`; its
    "references" and "normalised_score" play the run again when they are read by name, which takes seconds.

    Args:
        scenario: a fleet scenario, its name, or several to draw from whose rows agree.
        fields: what an action sets, of `actions.FIELDS`.
        base: limits of every replica at the start; None for what servers ship (256, 2048).
        router: who takes a request at the start; None for the least waiting tokens, seen once a second.
        reward: None, or a function from `Interval` and `PreparedFleet` to a finite number.
        interval_s: fleet time of a step, a multiple of 5 s; None takes the scenario's.
        episode_key: where info tells of an episode; None for nowhere.

    Raises:
        ValueError: an argument is unknown or outside its bound; the message names it.
    """

    metadata: dict[str, Any] = {"render_modes": []}  # noqa: RUF012 (Gymnasium declares it so)

    def __init__(
        self,
        scenario: ScenarioLike = "fleet-step",
        *,
        fields: Sequence[str] = ("replicas", "weights", "limits"),
        base: Limits | None = None,
        router: Router | None = None,
        reward: FleetReward | None = None,
        interval_s: float | None = None,
        episode_key: str | None = "episode",
    ) -> None:
        self.task = FleetTask(scenario, base=base, router=router, reward=reward, interval_s=interval_s)
        first = self.task.scenarios[0]
        self.actions = FleetActions(fields, first.least, first.most, self.task.kinds)
        self.action_space = self.actions.space
        self.observation_space = gym.spaces.Box(*bounds(len(self.task.kinds)), dtype=np.float32)
        self._episode_key = episode_key
        self._run: FleetRun | None = None

    def reset(
        self, *, seed: int | None = None, options: dict[str, Any] | None = None
    ) -> tuple[NDArray[np.float32], dict[str, Any]]:
        """Begin an episode.

        Args:
            seed: draws this episode and the following ones; None goes on drawing.
            options: "scenario" and "workload_seed" in place of the draws.

        Raises:
            ValueError: an unknown option or scenario.
        """
        super().reset(seed=seed)
        self._run = self.task.start(self.task.draw(self.np_random, options))
        self._rewards, self._decisions = 0.0, 0
        self._seen = observe(self._run, None, 0.0)
        return self._seen.copy(), self._info(None)

    def step(self, action: Any) -> tuple[NDArray[np.float32], float, bool, bool, dict[str, Any]]:
        """Decide, and run one interval.

        Args:
            action: of the action space.

        Returns:
            Observation, reward, whether every request has ended, whether the time was up before, info.

        Raises:
            ValueError: the action is not in the action space.
            RuntimeError: there was no `reset`.
        """
        if self._run is None:
            raise RuntimeError("reset must be called before step")
        run = self._run
        interval = run.step(self.actions.decision(action, run.prepared))
        reward = self.task.reward(interval, run.prepared)
        self._rewards += reward
        self._decisions += 1
        self._seen = observe(run, interval, float(self._seen[_LOAD]))
        truncated = not run.done and run.over
        info = self._info(interval)
        if (run.done or truncated) and self._episode_key is not None:
            info[self._episode_key] = self.task.episode(run, self._rewards, self._decisions)
        return self._seen.copy(), reward, run.done, truncated, info

    def _info(self, interval: Interval | None) -> dict[str, Any]:
        assert self._run is not None
        prepared = self._run.prepared
        told: dict[str, Any] = {"scenario": prepared.scenario.name, "seed": prepared.seed}
        if interval is not None:
            view = {name: value for name, value in asdict(interval.view).items() if not math.isnan(value)}
            told |= {"view": view, "good_tokens": interval.total_good_tokens, "replicas": interval.paid_replicas}
            if not math.isnan(interval.usd):
                told["usd"] = interval.usd
        return told
