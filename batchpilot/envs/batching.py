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
from batchpilot.core.metrics import from_record, measured
from batchpilot.envs.backends import SIMULATED
from batchpilot.envs.episode import good_tokens
from batchpilot.envs.infos import LaterDict
from batchpilot.envs.observing import observe
from batchpilot.envs.rendering import RENDER_MODES, History
from batchpilot.envs.rewards import Reward
from batchpilot.envs.scenarios import PreparedRun
from batchpilot.envs.task import EPISODE, ScenarioLike, Task
from batchpilot.latency.model.compiled import entered

_observe = entered(observe)


class BatchingEnv(gym.Env[NDArray[np.float32], Any]):
    """Set a server's batching limits so that as many tokens as possible meet their promise.

    **Step.** One decision interval of engine time. The action moves the limits, the engine runs, the observation tells
    what happened.

    **Observation.** `Box` of `core.features.FEATURE_NAMES`: ratios of the last window to capacity, promise and limits.
    After `reset` nothing was measured yet, and most features are neutral.

    **Action.** One index a limit, as `core.actions.ActionTable` (attribute `table`) says: moves by notches of a
    geometric grid, or the notch itself; `MultiDiscrete`, `Discrete` or `Box`, see `envs.action_forms`. `action_masks`
    leaves out the moves beyond a grid's end, for sb3-contrib's MaskablePPO.

    **Reward.** "goodput" or "score" of the window, or your own function, see `envs.rewards`.

    **Episode.** `reset(seed)` draws scenario and workload from the seed alone. It terminates when every request has
    ended and is truncated at the scenario's horizon. `reset(options={"scenario": name, "workload_seed": seed})` plays
    a given run.

    **Backend.** "simulated", or "torch": a real model, whose scenarios `envs.torch_backend` restates for it. The clock
    advances by measured step time and skips idle time, so that equal seeds give equal requests but not equal times.

    **Info.** "metrics" (the window's `WindowMetrics` without its limits; a percentile without a sample is left out),
    "limits" (those in force; one that is off is left out), "scenario" and "seed" (of the workload). The last one of an
    episode also holds "episode": "r", "l", "goodput_fraction" and "offered_tokens"; read by name, "references" (goodput
    shares of what servers ship and of the best fixed setting for this very run) and "normalised_score" (0 and 1 at
    these) are found by playing the run under some hundred settings, which takes 0.1 to 3 s.

    Args:
        scenario: a scenario, its name, a suite's name, or several of them to draw from.
        track: the limits that actions move: "batch", "limits" or "guarded".
        fields: these limits instead of a track's.
        action_mode: "relative" or "absolute".
        actions: "multi-discrete" (one index a limit), "discrete" (one number for all) or "box" (-1 to 1 a limit).
        reward: "goodput", "score", or a function from windows to rewards, see `envs.rewards.Reward`.
        base: the limits at the start, moved to the nearest notches; None for what servers ship (256, 2048).
        table: what actions mean, in place of track, fields, action mode and base; an exported policy brings its own.
        decision_interval_ms: engine time of a step; None takes the scenario's.
        seeds: workload seeds to draw from; "suite" for a suite's own block; None draws a new one every episode.
        episode_key: where info tells of an episode, for wrappers that want "episode" for themselves; None for nowhere.
        references: whether "references" and "normalised_score" are there each time, even if nobody reads them.
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
    ) -> None:
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
        self._record: NDArray[Any] | None = None

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
        self._position = tuple(self.table.start(self._tpot_ms).tolist())
        if self._history is not None:
            self._history.begin(self._run.scenario.name)
        self._rewards, self._decisions, self._good_tokens = 0.0, 0, 0.0
        record, _ = self._measure()
        return self._observed(), self._info(record)

    def step(self, action: Any) -> tuple[NDArray[np.float32], float, bool, bool, dict[str, Any]]:
        """Set limits and run one decision interval.

        Args:
            action: of the action space; for "multi-discrete" one index a limit, shape (fields,).

        Returns:
            Observation, reward, whether every request has ended, whether the horizon was reached before, info.

        Raises:
            ValueError: the action is not in the action space.
            RuntimeError: there was no `reset`.
        """
        if self._run is None:
            raise RuntimeError("reset must be called before step")
        self._position = self.table.moved(self._position, self.task.indices(action).tolist())
        record, terminated = self._measure(self._interval_ms)
        reward = float(self.task.reward(record)[0])
        truncated = not terminated and self._engine.now_ms >= self._horizon_ms
        self._rewards += reward
        self._decisions += 1
        self._good_tokens += good_tokens(record)[0]
        if self._history is not None:
            self._history.add(from_record(record[0], self._limits))
        info = self._info(record)
        if (terminated or truncated) and self.task.episode_key is not None:
            tokens = float(self._good_tokens)
            info[self.task.episode_key] = self.task.episode(self._run, self._rewards, self._decisions, tokens)
        return self._observed(), reward, terminated, truncated, info

    def action_masks(self) -> NDArray[np.bool_]:
        """Which actions lead somewhere now that no smaller move leads, as sb3-contrib's MaskablePPO reads them.

        Returns:
            Shape (sum of the limits' numbers of actions,), or (their product,) for "discrete".

        Raises:
            ValueError: the actions are a box.
            RuntimeError: there was no `reset`.
        """
        if self._run is None:
            raise RuntimeError("reset must be called before action_masks")
        return self.task.masks(self._position)

    def render(self) -> Any:
        """The episode so far, as the render mode says: a string, or an image of shape (H, W, 3); None without one."""
        return None if self._history is None else self._history.render()

    def _measure(self, interval_ms: float = 0.0) -> tuple[NDArray[Any], bool]:
        """Put the position's limits into force, run for an interval, measure it; whether every request has ended."""
        engine = self._engine
        self._limits, self._numbers, self._told_limits = self.task.setting(self._position, self._tpot_ms)
        engine.set_limits(self._limits)
        record, done = engine.run_record(min(engine.now_ms + interval_ms, self._horizon_ms))
        if record is not self._record:  # an engine writes every window into the same one
            self._record, self._plain = record, record.view(np.ndarray)
            self._measured = self._plain.view(np.float64).reshape(1, -1)
        self._tpot_ms = self._plain["tpot_target_ms"].item()
        return self._plain, done

    def _observed(self) -> NDArray[np.float32]:
        observations: NDArray[np.float32] = np.empty((1, len(FEATURE_NAMES)), np.float32)
        _observe(self._measured, self._numbers, self._quantities, observations, 0)
        return observations.reshape(-1)

    def _info(self, record: NDArray[Any]) -> dict[str, Any]:
        assert self._run is not None
        kept = np.frombuffer(record.tobytes(), record.dtype)  # a record's own copy takes thirty times as long
        return {
            "metrics": LaterDict(lambda: measured(kept[0])),
            "limits": self._told_limits.copy(),
            "scenario": self._run.scenario.name,
            "seed": self._run.seed,
        }
