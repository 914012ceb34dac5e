"""Offline data: episodes of an environment played by any strategy, as a Minari data set. Needs `minari[hdf5]`.

Actions are absolute, so that one space holds what every strategy asks for: the nearest notch of each limit.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import gymnasium
import numpy as np
from numpy.typing import NDArray

from batchpilot import __version__
from batchpilot.baselines import SERVER_DEFAULT, Setting
from batchpilot.configs.tuner import TunerConfig
from batchpilot.core.actions import MOVES, ActionTable
from batchpilot.core.extras import MissingExtraError
from batchpilot.core.metrics import WindowMetrics
from batchpilot.core.names import lookup
from batchpilot.core.provenance import git_revision
from batchpilot.core.tuner import Tuner
from batchpilot.envs import PreparedRun, prepare, suite_ids
from batchpilot.runners.leaderboard.evaluation import tightest_slo
from batchpilot.runners.leaderboard.strategies import REFERENCES, make_strategy

try:
    import minari
    from minari.data_collector import EpisodeBuffer
except ImportError as error:
    raise MissingExtraError(
        f"an offline data set needs Minari ({error}): pip install 'minari[hdf5]>=0.5.3,<0.6'"
    ) from error

RANDOM = "random"
"""The behaviour that moves every limit by a move drawn from `MOVES`."""


@dataclass(frozen=True)
class Plan:
    """What is to be collected.

    Attributes:
        dataset: Minari's id, such as `batchpilot/limits-train/policy-v0`.
        env: one of `envs.suite_ids()`.
        behaviour: "random", or a strategy as `leaderboard --tuners` takes it.
        epsilon: share of the decisions that are random all the same, 0 to 1.
        episodes: how many.
        seed: of the first episode; the others follow it.
    """

    dataset: str
    env: str
    behaviour: str = RANDOM
    epsilon: float = 0.0
    episodes: int = 100
    seed: int = 0

    def __post_init__(self) -> None:
        lookup(suite_ids(), self.env, "environment of a track and suite")
        if not 0 <= self.epsilon <= 1:
            raise ValueError(f"epsilon is {self.epsilon}; it must be from 0 to 1")
        if self.episodes < 1:
            raise ValueError(f"episodes is {self.episodes}; it must be >= 1")
        if self.behaviour in REFERENCES:
            raise ValueError(f"{self.behaviour} knows its run beforehand; take a strategy that does not, or {RANDOM!r}")


def collect(plan: Plan, on_done: Callable[[int], None] | None = None) -> Any:
    """Play the episodes and store them where Minari keeps data sets.

    Args:
        plan: what to collect; equal plans give equal data.
        on_done: told the number of episodes that are finished.

    Returns:
        The `minari.MinariDataset`. Each episode's options are the scenario and workload seed that `reset` plays again.

    Raises:
        ValueError: no such strategy, or Minari has a data set of that id.
    """
    if plan.dataset in minari.list_local_datasets():
        raise ValueError(
            f"there is a data set {plan.dataset!r} already; delete it with `minari delete`, or name another"
        )
    env = gymnasium.make(plan.env, action_mode="absolute")
    episodes = []
    for number in range(plan.episodes):
        episodes.append(_episode(env.unwrapped, plan, number))
        if on_done is not None:
            on_done(number + 1)
    return minari.create_dataset_from_buffers(
        plan.dataset,
        episodes,
        env=env,
        eval_env=env,
        algorithm_name=f"{plan.behaviour}, epsilon {plan.epsilon:g}",
        author="batchpilot",
        author_email="-",
        code_permalink=f"batchpilot {__version__}, revision {git_revision()}",
        description=f"{plan.env}: {plan.episodes} episodes from seed {plan.seed} by {plan.behaviour}",
        requirements=[f"batchpilot=={__version__}"],
        data_format="hdf5",
    )


def _episode(env: Any, plan: Plan, number: int) -> EpisodeBuffer:
    """One episode of the plan."""
    seed = plan.seed + number
    rng = np.random.default_rng([seed, len(plan.behaviour)])
    observation, info = env.reset(seed=seed)
    played = {one.name: one for one in env.task.scenarios}[info["scenario"]]
    acting = _Acting(env.table, prepare(played, info["seed"]), plan, seed)
    observations, actions, rewards, ends = [observation], [], [], [(False, False)]
    while not any(ends[-1]):
        action = acting.action(rng)
        observation, reward, terminated, truncated, info = env.step(action)
        acting.hear(info)
        observations.append(observation)
        actions.append(action)
        rewards.append(reward)
        ends.append((terminated, truncated))
    terminations, truncations = zip(*ends[1:], strict=True)
    return EpisodeBuffer(
        id=number,
        seed=seed,
        options={"scenario": info["scenario"], "workload_seed": info["seed"]},
        observations=observations,
        actions=actions,
        rewards=rewards,
        terminations=list(terminations),
        truncations=list(truncations),
    )


class _Acting:
    """A behaviour in one episode: which notches it sets, and what it hears."""

    def __init__(self, table: ActionTable, run: PreparedRun, plan: Plan, seed: int) -> None:
        self._table = table
        self._tpot_ms = float(run.requests.tpot_target_ms.min()) if len(run.requests) else np.inf
        self._notches = self._table.start(self._tpot_ms)
        self._last = np.array(self._table.sizes) - 1
        self._epsilon = plan.epsilon
        self._tuner: Tuner | None = None
        if plan.behaviour != RANDOM:
            track, _ = suite_ids()[plan.env]
            latency = run.engine.believed_latency()
            setting = Setting(TunerConfig(), SERVER_DEFAULT, tightest_slo(run), seed, track, latency)
            self._tuner = make_strategy(plan.behaviour, setting)

    def action(self, rng: np.random.Generator) -> NDArray[np.int64]:
        """The notches of the next decision."""
        if self._tuner is None or rng.random() < self._epsilon:
            moved = self._notches + rng.choice(MOVES, len(self._notches))
            self._notches = np.clip(moved, 0, self._last)
        else:
            asked = ActionTable(self._table.fields, self._tuner.ask(), "absolute")
            self._notches = asked.start(self._tpot_ms)
        return self._notches.copy()

    def hear(self, info: dict[str, Any]) -> None:
        """Tell the tuner a window as one under the limits that it asked for; the nearest notches were in force."""
        if self._tuner is not None:
            self._tuner.tell(WindowMetrics(limits=self._tuner.ask(), **info["metrics"]))
