"""The environment for stable-baselines3: a `VecEnv` over the native vector environment. Needs the extra `rl`."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from copy import deepcopy
from typing import Any

import numpy as np
from gymnasium.vector import AutoresetMode
from numpy.typing import NDArray

from batchpilot.core.extras import needing
from batchpilot.envs.vector import BatchingVectorEnv

with needing("the environment for stable-baselines3", "rl"):
    from stable_baselines3.common.vec_env import VecEnv

Indices = None | int | Iterable[int]


class BatchingVecEnv(VecEnv):  # type: ignore[misc, unused-ignore]
    """`BatchingVectorEnv` behind stable-baselines3's interface, for PPO and its kin.

    An ended row begins anew at once; the info of that step holds "terminal_observation", "TimeLimit.truncated",
    "episode" as `BatchingEnv` tells it, and the "scenario" and "seed" that were played. The other rows of a step share
    one empty dictionary: one each would cost a sixth of the step. Agents log returns without a `VecMonitor`.

    The rows share one environment: attributes are the same for all, and an attribute is set for all or none.

    Args:
        num_envs: rows, >= 1.
        **arguments: those of `BatchingVectorEnv`, but `autoreset_mode`.

    Attributes:
        envs: the native environment.
        told: its infos of the last `reset` or step, arrays over the rows, for wrappers that need more than a reward.

    Raises:
        ValueError: an argument is unknown or outside its bound.
    """

    def __init__(self, num_envs: int = 1, **arguments: Any) -> None:
        self.envs = BatchingVectorEnv(num_envs, autoreset_mode=AutoresetMode.SAME_STEP, **arguments)
        super().__init__(num_envs, self.envs.single_observation_space, self.envs.single_action_space)
        self.told: dict[str, Any] = {}
        self._actions: NDArray[np.int64] | None = None

    def reset(self) -> NDArray[np.float32]:
        """Begin an episode in every row, with the seeds and options that `seed` and `set_options` left.

        Raises:
            ValueError: the rows were given different options.
        """
        options = self._options[0]
        if any(other != options for other in self._options):
            raise ValueError("rows share one environment and take the same options; set_options with one dictionary")
        observations, told = self.envs.reset(seed=list(self._seeds), options=options)
        self.told = told
        drawn = zip(told["scenario"].tolist(), told["seed"].tolist(), strict=True)
        self.reset_infos: list[dict[str, Any]] = [{"scenario": name, "seed": seed} for name, seed in drawn]
        self._reset_seeds()
        self._reset_options()
        return observations

    def step_async(self, actions: NDArray[np.int64]) -> None:
        """Take the actions of the next `step_wait`.

        Args:
            actions: shape (num_envs, fields).
        """
        self._actions = actions

    def step_wait(
        self,
    ) -> tuple[NDArray[np.float32], NDArray[np.float32], NDArray[np.bool_], list[dict[str, Any]]]:
        """Run one decision interval in every row.

        Returns:
            Observations, rewards, whether rows ended, infos.

        Raises:
            RuntimeError: no actions were given.
        """
        if self._actions is None:
            raise RuntimeError("step_async must be called before step_wait")
        observations, rewards, terminated, truncated, told = self.envs.step(self._actions)
        self._actions, self.told = None, told
        infos: list[dict[str, Any]] = [{}] * self.num_envs
        ended = terminated | truncated
        for i in np.flatnonzero(ended).tolist():
            infos[i] = {
                "terminal_observation": told["final_obs"][i],
                "TimeLimit.truncated": bool(truncated[i]),
                "scenario": told["final_info"]["scenario"][i],
                "seed": int(told["final_info"]["seed"][i]),
            }
        for i, episode in self.envs.episodes.items():
            infos[i][str(self.envs.task.episode_key)] = episode
        return observations, rewards.astype(np.float32), ended, infos

    def close(self) -> None:
        """Release the environment."""
        self.envs.close()

    def get_images(self) -> Sequence[NDArray[np.uint8] | None]:
        """One chart a row; None where the render mode gives no images."""
        frames = self.envs.render() if self.render_mode == "rgb_array" else None
        return [None] * self.num_envs if frames is None else list(frames)

    def get_attr(self, attr_name: str, indices: Indices = None) -> list[Any]:
        """An attribute of the shared environment, once a row.

        Args:
            attr_name: its name.
            indices: the rows; None for all.
        """
        return [getattr(self.envs, attr_name) for _ in self._get_indices(indices)]

    def set_attr(self, attr_name: str, value: Any, indices: Indices = None) -> None:
        """Set an attribute of the shared environment.

        Args:
            attr_name: its name.
            value: its new value.
            indices: must be all rows, or None.

        Raises:
            ValueError: some rows only.
        """
        self._check_every_row(indices)
        setattr(self.envs, attr_name, value)

    def env_method(
        self, method_name: str, *method_args: Any, indices: Indices = None, **method_kwargs: Any
    ) -> list[Any]:
        """Call a method of the shared environment once; of `action_masks` each row gets its own.

        Args:
            method_name: its name.
            *method_args: its arguments.
            indices: must be all rows, or None.
            **method_kwargs: its named arguments.

        Returns:
            The result, once a row.

        Raises:
            ValueError: some rows only.
        """
        if method_name == "action_masks":
            masks = self.envs.action_masks()
            return [masks[i] for i in self._get_indices(indices)]
        self._check_every_row(indices)
        result = getattr(self.envs, method_name)(*method_args, **method_kwargs)
        return [deepcopy(result) for _ in range(self.num_envs)]

    def env_is_wrapped(self, wrapper_class: type[Any], indices: Indices = None) -> list[bool]:
        """Rows are never wrapped one by one.

        Args:
            wrapper_class: any wrapper.
            indices: the rows; None for all.
        """
        return [False for _ in self._get_indices(indices)]

    def _check_every_row(self, indices: Indices) -> None:
        if sorted(self._get_indices(indices)) != list(range(self.num_envs)):
            raise ValueError("rows share one environment; give indices=None")
