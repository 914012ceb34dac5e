"""The forms that an agent's actions may take: each says one index a limit, as `core.actions.ActionTable` reads them."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Sequence
from functools import reduce
from typing import Any

import numpy as np
from gymnasium import spaces
from numpy.typing import NDArray

from batchpilot.core.actions import ActionTable


class ActionForm(ABC):
    """How indices into an action table are written as one action.

    Args:
        table: what the indices mean.

    Attributes:
        space: the action space of one environment.
    """

    space: spaces.Space[Any]

    def __init__(self, table: ActionTable) -> None:
        self._table = table

    @abstractmethod
    def indices(self, actions: NDArray[Any], rows: tuple[int, ...]) -> NDArray[np.int64]:
        """One index a limit.

        Args:
            actions: shape (*rows, *space.shape).
            rows: () for one environment, (n,) for many.

        Returns:
            Indices below the table's sizes, shape (*rows, fields).

        Raises:
            ValueError: they do not lie in the action space; the message says what does.
        """

    @abstractmethod
    def masks(self, allowed: Sequence[NDArray[np.bool_]]) -> NDArray[np.bool_]:
        """Masks as sb3-contrib's MaskablePPO takes them.

        Args:
            allowed: of each limit, the indices that may be chosen, shape (..., size).

        Returns:
            Shape (..., entries).

        Raises:
            ValueError: actions of this form cannot be masked.
        """

    def _refuse(self, actions: NDArray[Any], rows: tuple[int, ...], what: str) -> ValueError:
        shape = (*rows, *(self.space.shape or ()))
        return ValueError(
            f"actions must be {what} of shape {shape} for {', '.join(self._table.fields)}; given: {actions}"
        )


class MultiDiscreteForm(ActionForm):
    """One index a limit; masks lie one after another."""

    def __init__(self, table: ActionTable) -> None:
        super().__init__(table)
        self.space = spaces.MultiDiscrete(list(table.sizes))
        self._sizes = np.array(table.sizes)

    def indices(self, actions: NDArray[Any], rows: tuple[int, ...]) -> NDArray[np.int64]:
        """As `ActionForm.indices`: they are the action."""
        if (
            actions.shape != (*rows, len(self._sizes))
            or actions.dtype.kind not in "iu"
            or not self._are_indices(actions)
        ):
            raise self._refuse(actions, rows, f"whole numbers, each from 0 and below {self._table.sizes},")
        return actions

    def masks(self, allowed: Sequence[NDArray[np.bool_]]) -> NDArray[np.bool_]:
        """As `ActionForm.masks`: shape (..., sum of sizes)."""
        return np.concatenate(allowed, axis=-1)

    def _are_indices(self, actions: NDArray[Any]) -> bool:
        if actions.ndim == 1:
            return all(0 <= action < size for action, size in zip(actions.tolist(), self._table.sizes, strict=True))
        return not ((actions < 0) | (actions >= self._sizes)).any()


class DiscreteForm(ActionForm):
    """One number for all limits: their indices are its digits, the last limit's the lowest."""

    def __init__(self, table: ActionTable) -> None:
        super().__init__(table)
        self._count = int(np.prod(table.sizes))
        self.space = spaces.Discrete(self._count)

    def indices(self, actions: NDArray[Any], rows: tuple[int, ...]) -> NDArray[np.int64]:
        """As `ActionForm.indices`."""
        whole = actions.shape == rows and actions.dtype.kind in "iu"
        if not whole or ((actions < 0) | (actions >= self._count)).any():
            raise self._refuse(actions, rows, f"whole numbers from 0 to {self._count - 1}")
        return np.stack(np.unravel_index(actions, self._table.sizes), axis=-1)

    def masks(self, allowed: Sequence[NDArray[np.bool_]]) -> NDArray[np.bool_]:
        """As `ActionForm.masks`: shape (..., product of sizes)."""

        def crossed(one: NDArray[np.bool_], other: NDArray[np.bool_]) -> NDArray[np.bool_]:
            return (one[..., :, None] & other[..., None, :]).reshape(*one.shape[:-1], -1)

        return reduce(crossed, allowed)


class BoxForm(ActionForm):
    """One number from -1 to 1 a limit: its first index to its last, the nearest in between."""

    def __init__(self, table: ActionTable) -> None:
        super().__init__(table)
        self._last = np.array(table.sizes) - 1
        self.space = spaces.Box(-1.0, 1.0, (len(table.sizes),), np.float32)

    def indices(self, actions: NDArray[Any], rows: tuple[int, ...]) -> NDArray[np.int64]:
        """As `ActionForm.indices`."""
        number = actions.shape == (*rows, len(self._last)) and actions.dtype.kind in "iuf"
        # Written so that NaN is refused too.
        if not number or not (np.abs(actions) <= 1.0).all():
            hint = "; wrap the agent's in gymnasium.wrappers.ClipAction" if number else ""
            raise self._refuse(actions, rows, f"numbers from -1 to 1{hint},")
        found: NDArray[np.int64] = np.rint((actions + 1.0) / 2.0 * self._last).astype(np.int64)
        return found

    def masks(self, allowed: Sequence[NDArray[np.bool_]]) -> NDArray[np.bool_]:
        """Refused: a range has no mask."""
        raise ValueError("actions of the form 'box' cannot be masked; take 'multi-discrete' or 'discrete'")


ACTION_FORMS: dict[str, type[ActionForm]] = {
    "multi-discrete": MultiDiscreteForm,
    "discrete": DiscreteForm,
    "box": BoxForm,
}
"""Forms by name."""
