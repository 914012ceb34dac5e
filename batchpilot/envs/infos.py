"""Infos that are made when somebody looks, which training never does: to make them took as long as to run the engines.

Those of many environments are in Gymnasium's form: arrays by name, each with a mask named with an underscore.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable
from typing import Any

import numpy as np
from numpy.typing import NDArray

from batchpilot.core.limit_arrays import LimitArrays
from batchpilot.core.limits import DISCIPLINES
from batchpilot.core.metrics import METRIC_NAMES

_DISCIPLINE_NAMES = np.array([*DISCIPLINES, None], dtype=object)
"""By code; the last one, which code -1 finds, is the scheduler's own."""


_DISCIPLINE = LimitArrays._fields.index("discipline")
_DRAFTED = LimitArrays._fields.index("speculative_tokens")

_METRIC = {name: place for place, name in enumerate(METRIC_NAMES)}


class LaterDict(dict[str, Any]):
    """A dictionary whose entries are made when it is first looked into; one that is asked for is made alone.

    Args:
        make: the entries.
        make_one: one of them, None where there is no such entry or where all are made at once.
    """

    def __init__(self, make: Callable[[], dict[str, Any]], make_one: Callable[[str], Any] = lambda _: None) -> None:
        super().__init__()
        self._make: Callable[[], dict[str, Any]] | None = make
        self._make_one = make_one

    def __getitem__(self, name: str) -> Any:
        if self._make is not None and (entry := self._make_one(name)) is not None:
            return entry
        self._fill()
        return super().__getitem__(name)

    def __reduce__(self) -> tuple[Any, ...]:
        """A copy is an ordinary dictionary."""
        return dict, (self.made(),)

    def made(self) -> dict[str, Any]:
        """The entries as an ordinary dictionary."""
        self._fill()
        return dict(super().items())

    def _fill(self) -> None:
        if self._make is not None:
            make, self._make = self._make, None
            super().update(make())


def _filling(name: str) -> Callable[..., Any]:
    plain = getattr(dict, name)

    def method(self: LaterDict, *arguments: Any, **options: Any) -> Any:
        for one in (self, *arguments):
            if isinstance(one, LaterDict):
                one._fill()
        return plain(self, *arguments, **options)

    method.__doc__ = plain.__doc__
    return method


for _name in (
    *("__setitem__", "__delitem__", "__contains__", "__iter__", "__len__", "__eq__", "__ne__"),
    *("__or__", "__ror__", "__ior__", "__repr__", "__reversed__", "get", "keys", "values", "items", "copy", "pop"),
    *("popitem", "setdefault", "update", "clear"),
):
    setattr(LaterDict, _name, _filling(_name))


def vector_infos(
    metrics: NDArray[Any],
    limits: NDArray[np.float64],
    scenarios: NDArray[Any],
    seeds: NDArray[np.int64],
    rows: NDArray[np.bool_],
) -> dict[str, Any]:
    """What `BatchingEnv` tells in its info, for many environments.

    Args:
        metrics: records of `core.metrics.METRICS`, shape (n,).
        limits: the limits in force, shape (n, fields of `LimitArrays`).
        scenarios: names, shape (n,), objects.
        seeds: workload seeds, shape (n,).
        rows: the rows that have an info, shape (n,).

    Returns:
        "metrics" and "limits" (dictionaries of arrays of float64, disciplines by name), "scenario", "seed". A mask is
        false where the row has no info, where a percentile has no sample and where a limit is off.
    """
    measured = metrics.view(np.float64).reshape(len(metrics), len(METRIC_NAMES)).copy().T
    settings, rows = limits.copy().T, rows.copy()

    def metric_columns() -> dict[str, Any]:
        return _masked(METRIC_NAMES, measured, rows & ~np.isnan(measured))

    def metric_column(name: str) -> NDArray[np.float64] | None:
        place = _METRIC.get(name)
        return None if place is None else measured[place]

    def limit_columns() -> dict[str, Any]:
        codes = settings[_DISCIPLINE].astype(np.int64)
        on = np.isfinite(settings)
        on[_DRAFTED] = settings[_DRAFTED] > 0
        told = _masked(LimitArrays._fields, settings, rows & on)
        return told | {"discipline": _DISCIPLINE_NAMES[codes], "_discipline": rows & (codes >= 0)}

    return {
        "metrics": LaterDict(metric_columns, metric_column),
        "_metrics": rows.copy(),
        "limits": LaterDict(limit_columns),
        "_limits": rows.copy(),
        "scenario": scenarios.copy(),
        "_scenario": rows.copy(),
        "seed": seeds.copy(),
        "_seed": rows.copy(),
    }


def _masked(names: Iterable[str], values: NDArray[np.float64], masks: NDArray[np.bool_]) -> dict[str, Any]:
    """One array and one mask a name, from the rows of two matrices."""
    names = tuple(names)
    return dict(zip(names, values, strict=True)) | {f"_{name}": mask for name, mask in zip(names, masks, strict=True)}
