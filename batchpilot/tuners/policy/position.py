"""Where a policy stands on its action table, one server at a time.

`core.actions.ActionTable` works on arrays of servers; a server that decides once a second has one, and plain numbers
are ten times as quick there. The two agree, which a test holds.
"""

from __future__ import annotations

import math
from bisect import bisect_left
from collections.abc import Sequence
from itertools import pairwise

from batchpilot.core.actions import ActionTable
from batchpilot.core.limit_arrays import limit_arrays, limits_at
from batchpilot.core.limits import Limits
from batchpilot.core.slo import can_be_aimed_at

_Value = int | float | str | None


class Position:
    """One notch of each limit that a policy moves.

    Args:
        table: what actions mean.

    Attributes:
        notches: one a field, in the table's order.
    """

    def __init__(self, table: ActionTable) -> None:
        self._table = table
        self._last = [len(grid.values) - 1 for grid in table.grids]
        self._by_moves = [table.mode == "relative" and grid.ordered for grid in table.grids]
        self._aimed = [grid.times_tpot_target for grid in table.grids]
        self._middles = [[math.sqrt(low * high) for low, high in pairwise(grid.values)] for grid in table.grids]
        self._base = table.base.to_dict()
        self._values = [_values(table, number) for number in range(len(table.grids))]
        self.notches: list[int] = [0] * len(table.grids)

    def start(self, tpot_target_ms: float) -> None:
        """Go to the notches closest to the table's base limits.

        Args:
            tpot_target_ms: the promise that `step_target_ms` is a multiple of, infinity for none.
        """
        self.notches = self._table.start(tpot_target_ms).tolist()

    def move(self, actions: Sequence[int]) -> None:
        """Go where actions lead.

        Args:
            actions: one a field, each an index below the table's size.
        """
        moves, steps = self._table.moves, zip(self.notches, actions, self._by_moves, self._last, strict=True)
        self.notches = [
            min(max(notch + moves[action], 0), last) if by_moves else action for notch, action, by_moves, last in steps
        ]

    def move_capped(self, actions: Sequence[int], in_force: Limits, tpot_target_ms: float) -> None:
        """Go where actions lead, but no further away from a limit that is capped, so that no wish winds up.

        The limits that nobody put another in place of move freely.

        Args:
            actions: one a field, each an index below the table's size.
            in_force: limits that somebody else put in place of this position's.
            tpot_target_ms: the TPOT target, infinity for none.
        """
        wished = self.notches
        self.follow(in_force, tpot_target_ms)
        forced, self.notches = self.notches, wished
        self.move(actions)
        fields = zip(wished, self.notches, forced, self._by_moves, strict=True)
        self.notches = [
            before if by_moves and there != before and abs(after - there) > abs(before - there) else after
            for before, after, there, by_moves in fields
        ]

    def follow(self, limits: Limits, tpot_target_ms: float) -> None:
        """Go to the notches closest to limits that somebody else chose.

        Args:
            limits: what is in force.
            tpot_target_ms: the TPOT target, infinity for none.
        """
        notches = []
        for number, field in enumerate(self._table.fields):
            value = getattr(limits, field)
            if self._aimed[number] and value is not None:
                value = value / tpot_target_ms if can_be_aimed_at(tpot_target_ms) else None
            if field == "discipline":
                values = self._values[number]
                notches.append(values.index(value) if value in values else 0)
            elif value is None:
                notches.append(self._last[number])
            else:
                notches.append(bisect_left(self._middles[number], value))
        self.notches = notches

    def limits(self, tpot_target_ms: float) -> Limits:
        """The limits here.

        Args:
            tpot_target_ms: the TPOT target; without a promise `step_target_ms` is off.
        """
        promised = can_be_aimed_at(tpot_target_ms)
        values_by_field = dict(self._base)
        for field, values, notch, aimed in zip(
            self._table.fields, self._values, self.notches, self._aimed, strict=True
        ):
            value = values[notch]
            if aimed:
                value = value * tpot_target_ms if promised and isinstance(value, float) else None
            values_by_field[field] = value
        return Limits(**values_by_field)


def _values(table: ActionTable, number: int) -> list[_Value]:
    """The values of one grid as `Limits` has them; multiples of the TPOT target as multiples."""
    grid = table.grids[number]
    if grid.times_tpot_target:
        return [None if math.isinf(value) else value for value in grid.values]
    arrays = limit_arrays([table.base] * len(grid.values))
    column = getattr(arrays, grid.field)
    column[:] = grid.values
    return [getattr(limits_at(arrays, i), grid.field) for i in range(len(grid.values))]
