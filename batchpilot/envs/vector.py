"""`BatchingVectorEnv`: many `BatchingEnv` in one, stepped by compiled threads over a single scheduler state."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
from gymnasium.utils import seeding
from gymnasium.vector import AutoresetMode, VectorEnv
from gymnasium.vector.utils import batch_space
from numpy.typing import NDArray

from batchpilot.core.actions import ActionTable
from batchpilot.core.limit_arrays import LimitArrays, limits_at
from batchpilot.core.limits import Limits
from batchpilot.core.metrics import from_record
from batchpilot.core.names import lookup
from batchpilot.envs.backends import BACKENDS, SIMULATED
from batchpilot.envs.episode import Asked, good_tokens, vector_episodes
from batchpilot.envs.infos import vector_infos
from batchpilot.envs.registration import ENV_ID
from batchpilot.envs.rendering import RENDER_MODES, History
from batchpilot.envs.rewards import Reward
from batchpilot.envs.rows import SimulationRows
from batchpilot.envs.scenarios import PreparedRun
from batchpilot.envs.task import EPISODE, ScenarioLike, Task

Observations = NDArray[np.float32]
StepResult = tuple[Observations, NDArray[np.float64], NDArray[np.bool_], NDArray[np.bool_], dict[str, Any]]


class BatchingVectorEnv(VectorEnv[Observations, NDArray[Any], NDArray[Any]]):
    """n copies of `BatchingEnv` that give the very numbers n single ones would, whatever the number of threads.

    Rows may play different scenarios. `reset(seed=s)` seeds row i with s + i; a list seeds each row. Infos are
    dictionaries of arrays with masks, see `envs.infos`.

    Preparing an episode costs about as much as stepping through it: give `seeds` where episodes may recur, and each
    run is prepared once (`Task` remembers the last ones).

    Args:
        num_envs: rows, >= 1.
        scenario: as in `BatchingEnv`, like the following but the last two.
        track: the limits that actions move.
        fields: these limits instead of a track's.
        action_mode: "relative" or "absolute".
        actions: "multi-discrete" (one index a limit), "discrete" (one number for all) or "box" (-1 to 1 a limit).
        reward: "goodput", "score", or a function from windows to rewards, see `envs.rewards.Reward`.
        base: the limits at the start.
        table: what actions mean, in place of track, fields, action mode and base; an exported policy brings its own.
        decision_interval_ms: engine time of a step.
        seeds: workload seeds to draw from; "suite" for a suite's own block.
        episode_key: where infos tell of episodes at their end; None for nowhere.
        references: whether they tell the references each time, rather than when they are asked for.
        backend: "simulated", the only one that has many engines; a device serves one torch engine at a time.
        backend_options: none.
        render_mode: "ansi", "rgb_array" or None; `render` gives one frame a row.
        autoreset_mode: when an ended row begins anew: NEXT_STEP (the next step ignores its action and gives the first
            observation) or SAME_STEP (at once; "final_obs" and "final_info" hold what the episode ended with).
        threads: compiled threads; None chooses by the number of rows.

    Attributes:
        episodes: those that the last step ended, by row; empty without an `episode_key`.

    Raises:
        ValueError: an argument is unknown or outside its bound; the message names it.
    """

    def __init__(
        self,
        num_envs: int = 1,
        scenario: ScenarioLike = "quick",
        *,
        track: str = "limits",
        fields: Sequence[str] | None = None,
        action_mode: str = "relative",
        actions: str = "multi-discrete",
        reward: str | Reward = "goodput",
        base: Limits | None = None,
        table: ActionTable | None = None,
        decision_interval_ms: float | None = None,
        seeds: Sequence[int] | str | None = None,
        episode_key: str | None = EPISODE,
        references: bool = False,
        backend: str = SIMULATED,
        backend_options: Mapping[str, Any] | None = None,
        render_mode: str | None = None,
        autoreset_mode: AutoresetMode | str = AutoresetMode.NEXT_STEP,
        threads: int | None = None,
    ) -> None:
        if num_envs < 1:
            raise ValueError(f"num_envs is {num_envs}; it must be >= 1")
        lookup(BACKENDS, backend, "backend")
        if backend != SIMULATED:
            raise ValueError(
                f"backend {backend!r} has no vector form: its engines would share one device; "
                f"use gymnasium.make({ENV_ID!r}, backend={backend!r}), or backend 'simulated'"
            )
        autoreset_mode = AutoresetMode(autoreset_mode)
        if autoreset_mode is AutoresetMode.DISABLED:
            raise ValueError("autoreset_mode is Disabled; NextStep and SameStep are there")
        self.task = Task(
            scenario,
            track=track,
            fields=fields,
            action_mode=action_mode,
            actions=actions,
            reward=reward,
            base=base,
            table=table,
            decision_interval_ms=decision_interval_ms,
            seeds=seeds,
            episode_key=episode_key,
            references=references,
            backend_options=backend_options,
        )
        self.table = self.task.table
        self.num_envs = num_envs
        self.single_observation_space = self.task.observation_space
        self.single_action_space = self.task.action_space
        self.observation_space = batch_space(self.single_observation_space, num_envs)
        self.action_space = batch_space(self.single_action_space, num_envs)
        self.metadata = {"render_modes": RENDER_MODES, "render_fps": 4, "autoreset_mode": autoreset_mode}
        self.render_mode = render_mode
        self._same_step = autoreset_mode is AutoresetMode.SAME_STEP
        self._rows = SimulationRows(num_envs, threads)
        self._random: list[np.random.Generator] = []
        self._scenarios, self._seeds = np.full(num_envs, "", dtype=object), np.zeros(num_envs, np.int64)
        self._runs: list[PreparedRun | None] = [None] * num_envs
        self._rewards, self._good_tokens = np.zeros(num_envs), np.zeros(num_envs)
        self._decisions = np.zeros(num_envs, np.int64)
        self.episodes: dict[int, Asked] = {}
        self._positions = np.zeros((num_envs, len(self.table.fields)), np.int64)
        self._interval_ms = np.zeros(num_envs)
        self._horizon_ms = np.zeros(num_envs)
        self._ended = np.ones(num_envs, np.bool_)
        self._every_row = np.ones(num_envs, np.bool_)
        self._histories = None if render_mode is None else [History(render_mode) for _ in range(num_envs)]

    def reset(
        self, *, seed: int | Sequence[int | None] | None = None, options: dict[str, Any] | None = None
    ) -> tuple[Observations, dict[str, Any]]:
        """Begin an episode in every row.

        Args:
            seed: row i is seeded with seed + i, or with its place in a list; None goes on drawing.
            options: "scenario" and "workload_seed" in place of the draws, for every row.

        Raises:
            ValueError: as many seeds as rows were not given, an unknown option or scenario.
        """
        self._seed_rows(seed)
        for i in range(self.num_envs):
            self._begin(i, options)
        self._run(self._rows.now_ms.copy())
        self._ended[:] = False
        return self._rows.observations.copy(), self._infos(self._every_row)

    def step(self, actions: NDArray[Any]) -> StepResult:
        """Set limits and run one decision interval in every row.

        Args:
            actions: of the action space; for "multi-discrete" one index a limit, shape (num_envs, fields). A row that
                begins anew ignores its own.

        Returns:
            Observations, rewards, terminations, truncations, infos.

        Raises:
            ValueError: the actions are not in the action space.
            RuntimeError: there was no `reset`.
        """
        if not self._random:
            raise RuntimeError("reset must be called before step")
        fresh = self._ended
        self._positions = self.table.move(self._positions, self.task.indices(actions, (self.num_envs,)))
        for i in np.flatnonzero(fresh).tolist():
            self._begin(i)
        now = self._rows.now_ms
        limits = self._run(np.where(fresh, now, np.minimum(now + self._interval_ms, self._horizon_ms)))
        rewards = np.where(fresh, 0.0, self.task.reward(self._rows.metrics))
        terminated = self._rows.finished & ~fresh
        truncated = (self._rows.now_ms >= self._horizon_ms) & ~terminated & ~fresh
        self._remember(limits, ~fresh)
        ended = terminated | truncated
        self._account(rewards, fresh, ended)
        observations = self._rows.observations.copy()
        if self._same_step and ended.any():
            infos = self._begin_at_once(ended, observations, limits)
        else:
            infos = self._infos(self._every_row) | self._told_episodes()
            self._ended = ended & (not self._same_step)
        return observations, rewards, terminated, truncated, infos

    def action_masks(self) -> NDArray[np.bool_]:
        """As `BatchingEnv.action_masks`, one row a row.

        Raises:
            ValueError: the actions are a box.
            RuntimeError: there was no `reset`.
        """
        if not self._random:
            raise RuntimeError("reset must be called before action_masks")
        return self.task.masks(self._positions)

    def render(self) -> tuple[Any, ...] | None:
        """One frame a row, as the render mode says; None without one."""
        return None if self._histories is None else tuple(history.render() for history in self._histories)

    def _seed_rows(self, seed: int | Sequence[int | None] | None) -> None:
        seeds = [seed] * self.num_envs if seed is None else seed
        if isinstance(seeds, int):
            seeds = [seeds + i for i in range(self.num_envs)]
        if len(seeds) != self.num_envs:
            raise ValueError(f"{len(seeds)} seeds were given for {self.num_envs} environments")
        known: list[np.random.Generator | None] = [*self._random] or [None] * self.num_envs
        self._random = [
            generator if one is None and generator is not None else seeding.np_random(one)[0]
            for one, generator in zip(seeds, known, strict=True)
        ]

    def _begin(self, i: int, options: dict[str, Any] | None = None) -> None:
        """Draw and load a new episode into row `i`."""
        run: PreparedRun = self.task.draw(self._random[i], options)
        self._rows.load(i, run)
        self._scenarios[i], self._seeds[i], self._runs[i] = run.scenario.name, run.seed, run
        self._rewards[i] = self._good_tokens[i] = self._decisions[i] = 0
        self._interval_ms[i] = self.task.interval_ms(run)
        self._horizon_ms[i] = math.inf if run.horizon_ms is None else run.horizon_ms
        self._positions[i] = self.table.start(float(self._rows.tpot_target_ms[i]))
        if self._histories is not None:
            self._histories[i].begin(run.scenario.name)

    def _run(self, until_ms: NDArray[np.float64]) -> LimitArrays:
        """Put the positions' limits into force and run every row to its time."""
        limits = self.table.to_arrays(self._positions, self._rows.tpot_target_ms)
        self._rows.set_limits(limits)
        self._rows.run_until(until_ms)
        return limits

    def _begin_at_once(
        self, ended: NDArray[np.bool_], observations: Observations, limits: LimitArrays
    ) -> dict[str, Any]:
        """Begin anew in the ended rows, writing their first observations; infos hold how they ended."""
        final_observations = np.full(self.num_envs, None, dtype=object)
        final_infos = self._infos(ended) | self._told_episodes()
        for i in np.flatnonzero(ended).tolist():
            final_observations[i] = observations[i].copy()
            self._begin(i)
        first = self.table.to_arrays(self._positions, self._rows.tpot_target_ms)
        for column, new in zip(limits, first, strict=True):
            column[ended] = new[ended]
        self._rows.set_limits(limits)
        for i in np.flatnonzero(ended).tolist():
            self._rows.measure(i)
        observations[ended] = self._rows.observations[ended]
        return self._infos(self._every_row) | {
            "final_obs": final_observations,
            "_final_obs": ended.copy(),
            "final_info": final_infos,
            "_final_info": ended.copy(),
        }

    def _infos(self, rows: NDArray[np.bool_]) -> dict[str, Any]:
        return vector_infos(self._rows.metrics, self._rows.limits, self._scenarios, self._seeds, rows)

    def _account(self, rewards: NDArray[np.float64], fresh: NDArray[np.bool_], ended: NDArray[np.bool_]) -> None:
        """Add a step to what each row's episode comes to, and close those that it ended."""
        self._rewards += rewards
        self._decisions += ~fresh
        self._good_tokens += np.where(fresh, 0.0, good_tokens(self._rows.metrics))
        self.episodes = {}
        for i in np.flatnonzero(ended).tolist() if self.task.episode_key is not None else ():
            run = self._runs[i]
            assert run is not None
            sums = float(self._rewards[i]), int(self._decisions[i]), float(self._good_tokens[i])
            self.episodes[i] = self.task.episode(run, *sums)

    def _told_episodes(self) -> dict[str, Any]:
        key = self.task.episode_key
        if key is None or not self.episodes:
            return {}
        ended = np.zeros(self.num_envs, np.bool_)
        ended[list(self.episodes)] = True
        return {key: vector_episodes(self.episodes, self._add_info), f"_{key}": ended}

    def _remember(self, limits: LimitArrays, rows: NDArray[np.bool_]) -> None:
        """Add the windows of these rows to what `render` shows."""
        if self._histories is not None:
            for i in np.flatnonzero(rows).tolist():
                self._histories[i].add(from_record(self._rows.metrics[i], limits_at(limits, i)))
