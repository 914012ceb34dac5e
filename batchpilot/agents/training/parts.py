"""Several `VecEnv` as one, which threads of their own may step. Needs the extra `rl`."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray

from batchpilot.core.extras import needing

with needing("training", "rl"):
    import torch
    from stable_baselines3.common.vec_env import VecEnv

Indices = None | int | Iterable[int]
Stepped = tuple[NDArray[np.float32], NDArray[np.float32], NDArray[np.bool_], list[dict[str, Any]]]


class Parts(VecEnv):  # type: ignore[misc, unused-ignore]
    """Environments of the same spaces side by side; to whoever does not ask for the parts, one environment.

    Attributes are those of the parts, once a row, and may be set, or methods called, for all rows only.

    Args:
        parts: at least one; their rows follow one another.

    Attributes:
        parts: as given.
        slices: the rows of each.
    """

    def __init__(self, parts: Sequence[VecEnv]) -> None:
        self.parts = tuple(parts)
        ends = np.cumsum([part.num_envs for part in self.parts]).tolist()
        self.slices = [slice(end - part.num_envs, end) for end, part in zip(ends, self.parts, strict=True)]
        self._actions: NDArray[Any] | None = None
        super().__init__(ends[-1], self.parts[0].observation_space, self.parts[0].action_space)

    def seed(self, seed: int | None = None) -> Sequence[int | None]:
        """Seed row i with seed + i at the next `reset`.

        Args:
            seed: None draws one.
        """
        if seed is None:
            seed = int(torch.randint(2**31, ()))
        for part, rows in zip(self.parts, self.slices, strict=True):
            part.seed(seed + rows.start)
        return [seed + i for i in range(self.num_envs)]

    def reset(self) -> NDArray[np.float32]:
        """Begin an episode in every row."""
        return np.concatenate([part.reset() for part in self.parts])

    def step_async(self, actions: NDArray[Any]) -> None:
        """Take the actions of the next `step_wait`.

        Args:
            actions: shape (num_envs, fields).
        """
        self._actions = actions

    def step_wait(self) -> Stepped:
        """Step every part.

        Raises:
            RuntimeError: no actions were given.
        """
        if self._actions is None:
            raise RuntimeError("step_async must be called before step_wait")
        actions, self._actions = self._actions, None
        stepped = [part.step(actions[rows]) for part, rows in zip(self.parts, self.slices, strict=True)]
        observations, rewards, ended, infos = zip(*stepped, strict=True)
        told = [info for some in infos for info in some]
        return np.concatenate(observations), np.concatenate(rewards), np.concatenate(ended), told

    def close(self) -> None:
        """Release the environments."""
        for part in self.parts:
            part.close()

    def get_attr(self, attr_name: str, indices: Indices = None) -> list[Any]:
        """An attribute of the rows' own environments.

        Args:
            attr_name: its name.
            indices: the rows; None for all.
        """
        found = [value for part in self.parts for value in part.get_attr(attr_name)]
        return [found[i] for i in self._get_indices(indices)]

    def set_attr(self, attr_name: str, value: Any, indices: Indices = None) -> None:
        """Set an attribute in every part.

        Args:
            attr_name: its name.
            value: its new value.
            indices: must be all rows, or None.

        Raises:
            ValueError: some rows only.
        """
        self._check_every_row(indices)
        for part in self.parts:
            part.set_attr(attr_name, value)

    def env_method(
        self, method_name: str, *method_args: Any, indices: Indices = None, **method_kwargs: Any
    ) -> list[Any]:
        """Call a method in every part.

        Args:
            method_name: its name.
            *method_args: its arguments.
            indices: must be all rows, or None.
            **method_kwargs: its named arguments.

        Returns:
            The results, once a row.

        Raises:
            ValueError: some rows only.
        """
        self._check_every_row(indices)
        return [value for part in self.parts for value in part.env_method(method_name, *method_args, **method_kwargs)]

    def env_is_wrapped(self, wrapper_class: type[Any], indices: Indices = None) -> list[bool]:
        """Whether the rows' parts are wrapped so.

        Args:
            wrapper_class: any wrapper.
            indices: the rows; None for all.
        """
        found = [told for part in self.parts for told in part.env_is_wrapped(wrapper_class)]
        return [found[i] for i in self._get_indices(indices)]

    def _check_every_row(self, indices: Indices) -> None:
        if sorted(self._get_indices(indices)) != list(range(self.num_envs)):
            raise ValueError("rows share environments; give indices=None")
