"""`BatchingEnv`: one server, simulated or real, whose limits an agent sets, one decision interval at a time."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from typing import Any

import gymnasium as gym
import numpy as np
from numpy.typing import NDArray

from batchpilot.core.actions import ActionTable
from batchpilot.core.features import FEATURE_NAMES, QUANTITIES
from batchpilot.core.limits import Limits
from batchpilot.core.metrics import from_record, plain_record
from batchpilot.envs.backends import SIMULATED
from batchpilot.envs.observing import observe
from batchpilot.envs.rendering import RENDER_MODES, History
from batchpilot.envs.scenarios import PreparedRun
from batchpilot.envs.task import ScenarioLike, Task


class BatchingEnv(gym.Env[NDArray[np.float32], NDArray[np.int64]]):
    """Set a server's batching limits so that as many tokens as possible meet their promise.

    **Step.** One decision interval of engine time. The action moves the limits, the engine runs, the observation tells
    what happened.

    **Observation.** `Box` of `core.features.FEATURE_NAMES`: ratios of the last window to capacity, promise and limits.
    After `reset` nothing was measured yet, and most features are neutral.

    **Action.** `MultiDiscrete`, one index a limit, as `core.actions.ActionTable` (attribute `table`) says: moves by
    notches of a geometric grid, or the notch itself.

    **Reward.** "goodput" or "score" of the window, see `envs.rewards`.

    **Episode.** `reset(seed)` draws scenario and workload from the seed alone. It terminates when every request has
    ended and is truncated at the scenario's horizon. `reset(options={"scenario": name, "workload_seed": seed})` plays
    a given run.

    **Backend.** "simulated", or "torch": a real model, whose scenarios `envs.torch_backend` restates for it. The clock
    advances by measured step time and skips idle time, so that equal seeds give equal requests but not equal times.

    **Info.** "metrics" (the window's `WindowMetrics` without its limits; a percentile without a sample is left out),
    "limits" (those in force; one that is off is left out), "scenario" and "seed" (of the workload).

    Args:
        scenario: a scenario, its name, a suite's name, or several of them to draw from.
        track: the limits that actions move: "batch", "limits" or "guarded".
        fields: these limits instead of a track's.
        action_mode: "relative" or "absolute".
        reward: "goodput" or "score".
        base: the limits at the start, moved to the nearest notches; None for what servers ship (256, 2048).
        table: what actions mean, in place of track, fields, action mode and base; an exported policy brings its own.
        decision_interval_ms: engine time of a step; None takes the scenario's.
        seeds: workload seeds to draw from; None draws a new one every episode.
        backend: "simulated" or "torch".
        backend_options: of "torch", see `envs.torch_backend.TorchOptions`: a runner, or what it is built from.
        render_mode: "ansi" (a text panel), "rgb_array" (a chart), or None.

    Raises:
        ValueError: an argument is unknown or outside its bound; the message names it.
    """

    metadata = {"render_modes": RENDER_MODES, "render_fps": 4}  # noqa: RUF012 (Gymnasium declares it so)

    def __init__(
        self,
        scenario: ScenarioLike = "quick",
        *,
        track: str = "limits",
        fields: Sequence[str] | None = None,
        action_mode: str = "relative",
        reward: str = "goodput",
        base: Limits | None = None,
        table: ActionTable | None = None,
        decision_interval_ms: float | None = None,
        seeds: Sequence[int] | None = None,
        backend: str = SIMULATED,
        backend_options: Mapping[str, Any] | None = None,
        render_mode: str | None = None,
    ) -> None:
        self.task = Task(
            scenario,
            track=track,
            fields=fields,
            action_mode=action_mode,
            reward=reward,
            base=base,
            table=table,
            decision_interval_ms=decision_interval_ms,
            seeds=seeds,
            backend=backend,
            backend_options=backend_options,
        )
        self.table = self.task.table
        self.observation_space = self.task.observation_space
        self.action_space = self.task.action_space
        self.render_mode = render_mode
        self._history = None if render_mode is None else History(render_mode)
        self._run: PreparedRun | None = None
        self._quantities = np.zeros((1, QUANTITIES))

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
        self._run = self.task.draw(self.np_random, options)
        self._engine = self.task.backend.start(self._run)
        self._interval_ms = self.task.interval_ms(self._run)
        self._horizon_ms = math.inf if self._run.horizon_ms is None else self._run.horizon_ms
        self._tpot_ms = float(self._engine.state.clock[0].tpot_target_ms)
        self._position = self.table.start(self._tpot_ms)
        if self._history is not None:
            self._history.begin(self._run.scenario.name)
        record, _ = self._measure()
        return self._observed(record), self._info(record)

    def step(self, action: NDArray[np.int64]) -> tuple[NDArray[np.float32], float, bool, bool, dict[str, Any]]:
        """Set limits and run one decision interval.

        Args:
            action: one index a limit, shape (fields,).

        Returns:
            Observation, reward, whether every request has ended, whether the horizon was reached before, info.

        Raises:
            ValueError: the action is not in the action space.
            RuntimeError: there was no `reset`.
        """
        if self._run is None:
            raise RuntimeError("reset must be called before step")
        action = np.asarray(action)
        self.task.check_actions(action, self._position.shape)
        self._position = self.table.move(self._position, action)
        record, terminated = self._measure(self._interval_ms)
        reward = float(self.task.reward(record)[0])
        truncated = not terminated and self._engine.now_ms >= self._horizon_ms
        if self._history is not None:
            self._history.add(from_record(record[0], self._limits))
        return self._observed(record), reward, terminated, truncated, self._info(record)

    def render(self) -> Any:
        """The episode so far, as the render mode says: a string, or an image of shape (H, W, 3); None without one."""
        return None if self._history is None else self._history.render()

    def _measure(self, interval_ms: float = 0.0) -> tuple[NDArray[Any], bool]:
        """Put the position's limits into force, run for an interval, measure it; whether every request has ended."""
        engine = self._engine
        self._limits, self._numbers, self._told_limits = self.task.setting(self._position, self._tpot_ms)
        engine.set_limits(self._limits)
        record, done = engine.run_record(min(engine.now_ms + interval_ms, self._horizon_ms))
        self._tpot_ms = float(record[0]["tpot_target_ms"])
        return record, done

    def _observed(self, record: NDArray[Any]) -> NDArray[np.float32]:
        observations: NDArray[np.float32] = np.empty((1, len(FEATURE_NAMES)), np.float32)
        observe(record.view(np.float64).reshape(1, -1), self._numbers, self._quantities, observations, 0)
        return observations.reshape(-1)

    def _info(self, record: NDArray[Any]) -> dict[str, Any]:
        assert self._run is not None
        return {
            "metrics": {name: value for name, value in plain_record(record[0]).items() if value == value},
            "limits": self._told_limits.copy(),
            "scenario": self._run.scenario.name,
            "seed": self._run.seed,
        }
