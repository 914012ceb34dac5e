"""The search space of a track: one notch a limit, on the grids that policies move on, so that off has its place too."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray
from optuna.distributions import BaseDistribution, CategoricalDistribution, IntDistribution

from batchpilot.core.actions import ActionTable
from batchpilot.core.grids import GRIDS, Grid
from batchpilot.core.limits import DISCIPLINES, TRACKS, Limits
from batchpilot.core.names import lookup
from batchpilot.tuners.planning.search import usual_notches


class SearchSpace:
    """What trials may set.

    Parameters are called after their limit: `batch_size_notch` is a place on the grid of `batch_size` and
    `discipline` the name of one. Notches are geometric, so neighbouring ones differ by one factor.

    Args:
        track: the fields that may move.
        base: the limits whose other fields are kept.
        min_batch_size: smallest batch size, >= 1.
        max_batch_size: largest batch size; None for the grid's.

    Attributes:
        distributions: Optuna's, by parameter.

    Raises:
        ValueError: no such track, or no notch of the grid lies between the two sizes.
    """

    def __init__(self, track: str, base: Limits, *, min_batch_size: int = 1, max_batch_size: int | None = None) -> None:
        fields = lookup(TRACKS, track, "track")
        grids = [
            _within(GRIDS[field], min_batch_size, max_batch_size) if field == "batch_size" else GRIDS[field]
            for field in fields
        ]
        self._table = ActionTable(fields, base, "absolute", grids=grids)
        self.distributions: dict[str, BaseDistribution] = {_name(grid): _distribution(grid) for grid in grids}

    def limits(self, params: Mapping[str, Any], tpot_target_ms: float) -> Limits:
        """The limits that parameters stand for.

        Args:
            params: a value for each of `distributions`.
            tpot_target_ms: what `step_target_ms` is a multiple of; where it is not finite the step target is off.

        Raises:
            KeyError: a parameter is missing.
        """
        notches = [_notch(grid, params[_name(grid)]) for grid in self._table.grids]
        return self._table.to_limits(np.array(notches), tpot_target_ms)

    def base_params(self, tpot_target_ms: float) -> dict[str, Any]:
        """The parameters closest to the base limits.

        Args:
            tpot_target_ms: what `step_target_ms` is a multiple of.
        """
        return self._params(self._table.start(tpot_target_ms))

    def sample(self, count: int, rng: np.random.Generator) -> list[dict[str, Any]]:
        """Parameters spread over where limits usually lie: of each field every notch is drawn about as often.

        Args:
            count: how many, >= 1.
            rng: draws them.
        """
        usual = [np.array(usual_notches(grid) or range(len(grid.values))) for grid in self._table.grids]
        columns = [notches[rng.permutation(np.arange(count) % len(notches))] for notches in usual]
        return [self._params(row) for row in np.stack(columns, axis=1)]

    def nearby(self, params: Mapping[str, Any]) -> list[dict[str, Any]]:
        """Parameters that differ in one limit: by a quarter and a half of a doubling, or in the discipline.

        Args:
            params: a value for each of `distributions`.
        """
        near = []
        for grid in self._table.grids:
            here = _notch(grid, params[_name(grid)])
            notches = [here + move for move in (-2, -1, 1, 2)] if grid.ordered else usual_notches(grid)
            allowed = [notch for notch in notches if 0 <= notch < len(grid.values) and notch != here]
            near += [{**params, _name(grid): _value(grid, notch)} for notch in allowed]
        return near

    def _params(self, notches: Sequence[int] | NDArray[np.int64]) -> dict[str, Any]:
        return {_name(grid): _value(grid, int(notch)) for grid, notch in zip(self._table.grids, notches, strict=True)}


def _within(grid: Grid, low: int, high: int | None) -> Grid:
    values = tuple(value for value in grid.values if low <= value and (high is None or value <= high))
    if not values:
        raise ValueError(f"no notch of {grid.field} lies between {low} and {high}; widen the bounds")
    return Grid(grid.field, values)


def _name(grid: Grid) -> str:
    return f"{grid.field}_notch" if grid.ordered else grid.field


def _distribution(grid: Grid) -> BaseDistribution:
    if grid.ordered:
        return IntDistribution(0, len(grid.values) - 1)
    return CategoricalDistribution([_value(grid, notch) for notch in range(len(grid.values))])


def _value(grid: Grid, notch: int) -> int | str:
    if grid.ordered:
        return notch
    return next(name for name, code in DISCIPLINES.items() if code == grid.values[notch])


def _notch(grid: Grid, value: int | str) -> int:
    return int(value) if grid.ordered else grid.values.index(float(DISCIPLINES[str(value)]))
