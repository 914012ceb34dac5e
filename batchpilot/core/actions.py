"""Action tables: what a policy's actions do to limits; shared by envs, agents, exported policies and servers.

A policy's *position* is one notch of a grid a field. A relative action moves by some notches; an absolute one names
the notch. A discipline has no order, so it is named in both modes.
"""

from __future__ import annotations

import math
from collections.abc import Iterable, Mapping, Sequence
from typing import Any

import numpy as np
from numpy.typing import ArrayLike, NDArray

from batchpilot.core.grids import GRIDS, Grid
from batchpilot.core.limit_arrays import LimitArrays, limit_arrays, limit_numbers, limits_of
from batchpilot.core.limits import DISCIPLINES, Limits
from batchpilot.core.names import lookup
from batchpilot.core.slo import LONGEST_TARGET_MS, SHORTEST_TARGET_MS, can_be_aimed_at

MOVES = (-4, -1, 0, 1, 4)
"""Notches that a relative action can move by: a halving, a small step, none, a small step, a doubling."""

ACTION_MODES = ("relative", "absolute")


class ActionTable:
    """What a policy's actions mean, for one server or many.

    Args:
        fields: the limits that it moves, in the order of its actions.
        base: the limits that it starts from; fields that it does not move stay as they are there.
        mode: "relative" or "absolute".
        moves: notches that a relative action can move by, ascending, 0 among them.
        grids: the grid of each field; None takes `GRIDS`.

    Attributes:
        fields: as given.
        base: as given.
        mode: as given.
        moves: as given.
        grids: one a field.
        sizes: number of actions of each field.

    Raises:
        ValueError: an unknown field or mode, a field twice, moves without 0, or grids of other fields.
    """

    def __init__(
        self,
        fields: Sequence[str],
        base: Limits,
        mode: str = "relative",
        *,
        moves: Sequence[int] = MOVES,
        grids: Sequence[Grid] | None = None,
    ) -> None:
        lookup(dict.fromkeys(ACTION_MODES), mode, "action mode")
        if not fields or len(set(fields)) != len(fields):
            raise ValueError(f"an action table needs fields, each of them once; given: {list(fields)}")
        if 0 not in moves or list(moves) != sorted(set(moves)):
            raise ValueError(f"moves {list(moves)} must ascend and hold 0")
        if grids is None:
            grids = [lookup(GRIDS, name, "tunable limit") for name in fields]
        if [grid.field for grid in grids] != list(fields):
            raise ValueError(f"grids of {[grid.field for grid in grids]} do not belong to fields {list(fields)}")
        self.fields = tuple(fields)
        self.base = base
        self.mode = mode
        self.moves = tuple(moves)
        self.grids = tuple(grids)
        self._by_moves = np.array([mode == "relative" and grid.ordered for grid in grids])
        self._values = tuple(np.array(grid.values) for grid in grids)
        self._numbers = [values.astype(np.float64).tolist() for values in self._values]
        self._last = np.array([len(grid.values) - 1 for grid in grids])
        self._moves = np.array(moves)
        self._ends = [int(last) if by else None for by, last in zip(self._by_moves, self._last, strict=True)]
        self._base = limit_arrays([base])
        self._base_column = np.array(self._base)
        self._base_numbers = [float(number) for number in limit_numbers(base)]
        self._places = [LimitArrays._fields.index(grid.field) for grid in grids]
        by_moves = zip(self._by_moves, self._last, strict=True)
        self.sizes = tuple(len(moves) if moved else int(last) + 1 for moved, last in by_moves)

    def start(self, tpot_target_ms: float) -> NDArray[np.int64]:
        """The position closest to the base limits.

        Args:
            tpot_target_ms: the promise that `step_target_ms` is a multiple of.

        Returns:
            Notches, shape (fields,).
        """
        notches = []
        for grid in self.grids:
            value = float(getattr(self._base, grid.field)[0])
            if grid.times_tpot_target and math.isfinite(value):
                value = value / tpot_target_ms if can_be_aimed_at(tpot_target_ms) else math.inf
            notches.append(grid.nearest(value))
        return np.array(notches)

    def move(self, positions: ArrayLike, actions: ArrayLike) -> NDArray[np.int64]:
        """Where actions lead; moves beyond a grid's ends stop there.

        Args:
            positions: notches, shape (..., fields).
            actions: indices below `sizes`, same shape.

        Returns:
            Notches, same shape.
        """
        actions = np.asarray(actions)
        moved = np.asarray(positions) + self._moves[np.where(self._by_moves, actions, 0)]
        return np.where(self._by_moves, np.minimum(np.maximum(moved, 0), self._last), actions)

    def moved(self, position: Iterable[int], action: Iterable[int]) -> tuple[int, ...]:
        """`move` for one server, in a tenth of the time.

        Args:
            position: notches, one a field.
            action: indices below `sizes`, likewise.
        """
        fields = zip(position, action, self._ends, strict=True)
        return tuple(act if last is None else min(max(notch + self.moves[act], 0), last) for notch, act, last in fields)

    def hold(self, positions: ArrayLike) -> NDArray[np.int64]:
        """The actions that leave positions as they are.

        Args:
            positions: notches, shape (..., fields).

        Returns:
            Actions, same shape.
        """
        return np.where(self._by_moves, self.moves.index(0), np.asarray(positions))

    def told_apart(self, positions: ArrayLike) -> list[NDArray[np.bool_]]:
        """Which actions lead somewhere that no smaller move leads: at a grid's end, moves beyond it do not.

        Args:
            positions: notches, shape (..., fields).

        Returns:
            One array a field, shape (..., size); the action that stays is always among them.
        """
        positions = np.asarray(positions)
        return [self._told_apart(positions[..., k], k) for k in range(len(self.fields))]

    def _told_apart(self, notches: NDArray[np.int64], k: int) -> NDArray[np.bool_]:
        if not self._by_moves[k]:
            return np.ones((*notches.shape, self.sizes[k]), np.bool_)
        led = np.clip(notches[..., None] + self._moves, 0, self._last[k])
        apart = np.diff(led, axis=-1) > 0
        stay = self.moves.index(0)
        # A move down is held against the next one up, a move up against the next one down.
        return np.concatenate([apart[..., :stay], np.ones((*notches.shape, 1), np.bool_), apart[..., stay:]], axis=-1)

    def to_arrays(self, positions: NDArray[np.int64], tpot_target_ms: NDArray[np.float64]) -> LimitArrays:
        """The limits at many positions.

        Args:
            positions: notches, shape (n, fields).
            tpot_target_ms: the TPOT target of each server, shape (n,); without a promise `step_target_ms` is off.
        """
        columns = np.empty((len(LimitArrays._fields), len(positions)))
        columns[:] = self._base_column
        for grid, place, values, notches in zip(self.grids, self._places, self._values, positions.T, strict=True):
            column = values[notches]
            if grid.times_tpot_target:
                aimed = (tpot_target_ms >= SHORTEST_TARGET_MS) & (tpot_target_ms <= LONGEST_TARGET_MS)
                column = np.where(aimed, column * np.where(aimed, tpot_target_ms, 1.0), math.inf)
            columns[place] = column
        return LimitArrays(*columns)

    def to_limits(self, position: NDArray[np.int64], tpot_target_ms: float) -> Limits:
        """The limits at one position.

        Args:
            position: notches, shape (fields,).
            tpot_target_ms: the server's TPOT target.
        """
        numbers = list(self._base_numbers)
        for grid, place, values, notch in zip(self.grids, self._places, self._numbers, position.tolist(), strict=True):
            numbers[place] = values[notch]
            if grid.times_tpot_target:
                aimed = can_be_aimed_at(tpot_target_ms)
                numbers[place] = values[notch] * tpot_target_ms if aimed else math.inf
        return limits_of(numbers)

    def describe(self) -> dict[str, Any]:
        """The table as plain data that JSON can hold, grids included; `from_description` reads it back."""
        return {
            "mode": self.mode,
            "moves": list(self.moves),
            "base": self.base.to_dict(),
            "grids": [_describe(grid) for grid in self.grids],
        }

    @classmethod
    def from_description(cls, description: Mapping[str, Any]) -> ActionTable:
        """A table from its description.

        Args:
            description: what `describe` returned.

        Raises:
            ValueError: a key is missing, or a value is not what it should be; the message says which.
        """
        try:
            grids = [_grid(grid) for grid in description["grids"]]
            base = Limits.from_dict(description["base"])
            moves = [int(move) for move in description["moves"]]
            return cls([grid.field for grid in grids], base, description["mode"], moves=moves, grids=grids)
        except KeyError as error:
            raise ValueError(f"the description of an action table lacks {error}") from None
        except TypeError as error:
            raise ValueError(f"this is no description of an action table: {error}") from None


def _describe(grid: Grid) -> dict[str, Any]:
    if not grid.ordered:
        return {"field": grid.field, "choices": [_discipline(value) for value in grid.values]}
    notches = [None if math.isinf(value) else value for value in grid.values]
    return {"field": grid.field, "notches": notches, "times_tpot_target": grid.times_tpot_target}


def _grid(description: Mapping[str, Any]) -> Grid:
    name = description["field"]
    lookup(GRIDS, name, "tunable limit")
    if "choices" in description:
        codes = (float(lookup(DISCIPLINES, choice, "discipline")) for choice in description["choices"])
        return Grid(name, tuple(codes), ordered=False)
    values = tuple(math.inf if value is None else float(value) for value in description["notches"])
    return Grid(name, values, times_tpot_target=bool(description["times_tpot_target"]))


def _discipline(code: float) -> str:
    return next(name for name, known in DISCIPLINES.items() if known == code)
