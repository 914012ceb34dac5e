"""Coordinate descent over the notches of a track, by values that are paired but noisy."""

from __future__ import annotations

import math
from collections.abc import Callable

import numpy as np
from numpy.typing import NDArray

from batchpilot.core.actions import ActionTable
from batchpilot.core.grids import Grid
from batchpilot.core.limits import DISCIPLINES

Values = NDArray[np.float64]
Evaluate = Callable[[NDArray[np.int64], int, int], Values]
"""(positions of shape (n, fields), first future, the one after the last) -> values of shape (n, futures)."""

NEAR = (-2, -1, 1, 2)
"""Notches around the present one that are always tried."""

FAR_EVERY = 4
"""Notches apart, one doubling, are those tried anywhere: a plateau may lie between here and what is good."""

RANGES = {
    "batch_size": (8, 512),
    "token_budget": (128, 8192),
    "max_queued_tokens": (500, 64000),
    "step_target_ms": (0.25, 4.0),
    "ttft_guard": (0.4, 1.5),
}
"""Where far notches lie; step targets are multiples of the TPOT target. Off is always among them."""

DISCIPLINES_TRIED = tuple(DISCIPLINES[name] for name in ("fcfs", "spf"))
"""The others need what a twin cannot know: estimated lengths, users and priorities."""

CAUTION = 1.0
_FINALISTS = 3
_SMALLEST_GAIN = 1e-3


class CoordinateSearch:
    """Improves a position one field at a time.

    Every candidate is tried in the first few futures, and the best of them in all: most of the work of telling a good
    one would else go into bad ones.

    Args:
        table: the fields and their grids.
        heats: futures of the first round.
        finals: futures of the second, >= heats.
        caution: a candidate must be better by so many standard errors of its paired gain.
    """

    def __init__(self, table: ActionTable, heats: int = 2, finals: int = 8, caution: float = CAUTION) -> None:
        self._table, self._heats, self._finals, self._caution = table, heats, finals, caution
        self._far = [usual_notches(grid) for grid in table.grids]

    def improve(
        self,
        anchor: NDArray[np.int64],
        present: NDArray[np.int64],
        evaluate: Evaluate,
        enough: Callable[[], bool] = lambda: False,
    ) -> tuple[NDArray[np.int64], float]:
        """One pass over all fields, from the present position if that is surely better than the anchor.

        Where much is alike, small gains are luck, and a search that went on from every lucky step would wander off.

        Args:
            anchor: where to return to, shape (fields,).
            present: the position in force, shape (fields,).
            evaluate: tells values; called with each field's candidates.
            enough: asked before each field; whether the work is to end with what has been found.

        Returns:
            The best position found, and its mean value.
        """
        known = _Known(evaluate)
        starts = np.stack([anchor, present])
        values = known.values(starts, self._finals)
        first = self._winner(values)
        position, value = starts[first], float(values[first].mean())
        for field in range(len(self._table.fields)):
            if enough():
                break
            candidates = self._candidates(position, field)
            heats = known.values(candidates, self._heats).mean(axis=1)
            better = [k for k in np.argsort(-heats, kind="stable")[:_FINALISTS] if heats[k] > heats[0]]
            if not better:
                continue
            finalists = candidates[[0, *better]]
            values = known.values(finalists, self._finals)
            winner = self._winner(values)
            position, value = finalists[winner], float(values[winner].mean())
        return position, value

    def _winner(self, values: Values) -> int:
        """The row with the largest mean that is surely above the first one's, the first one if none is."""
        gains = values - values[0]
        mean = gains.mean(axis=1)
        doubt = self._caution * gains.std(axis=1, ddof=1) / math.sqrt(values.shape[1])
        sure = mean - doubt > _SMALLEST_GAIN * abs(float(values[0].mean()))
        return int(np.argmax(np.where(sure, mean, 0.0)))

    def _candidates(self, position: NDArray[np.int64], field: int) -> NDArray[np.int64]:
        """The position itself, and those that differ in one field, shape (n, fields)."""
        present = int(position[field])
        grid = self._table.grids[field]
        near = [present + move for move in NEAR if 0 <= present + move < len(grid.values)] if grid.ordered else []
        notches = dict.fromkeys([present, *near, *self._far[field]])
        candidates = np.tile(position, (len(notches), 1))
        candidates[:, field] = list(notches)
        return candidates


class _Known:
    """Values of one pass: the same position in the same future is worth the same, so each is told once.

    Args:
        evaluate: tells values.
    """

    def __init__(self, evaluate: Evaluate) -> None:
        self._evaluate = evaluate
        self._values: dict[bytes, Values] = {}

    def values(self, positions: NDArray[np.int64], futures: int) -> Values:
        """What positions of shape (n, fields) are worth in the first futures, shape (n, futures)."""
        keys = [position.tobytes() for position in positions]
        by_known: dict[int, dict[bytes, int]] = {}
        for place, key in enumerate(keys):
            have = len(self._values.setdefault(key, np.empty(0)))
            if have < futures:
                by_known.setdefault(have, {})[key] = place
        for have, places in by_known.items():
            told = self._evaluate(positions[list(places.values())], have, futures)
            for key, value in zip(places, told, strict=True):
                self._values[key] = np.concatenate([self._values[key], value])
        return np.stack([self._values[key][:futures] for key in keys])


def usual_notches(grid: Grid) -> list[int]:
    """Notches of a grid where its limit usually lies, a doubling apart, off among them; disciplines worth trying.

    Args:
        grid: of one of `RANGES`, or the disciplines.
    """
    if not grid.ordered:
        return [notch for notch, code in enumerate(grid.values) if code in DISCIPLINES_TRIED]
    lowest, highest = RANGES[grid.field]
    notches = [notch for notch, value in enumerate(grid.values) if lowest <= value <= highest][::FAR_EVERY]
    last = len(grid.values) - 1
    return [*notches, last] if math.isinf(grid.values[last]) else notches
