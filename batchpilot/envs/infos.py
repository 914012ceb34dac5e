"""Infos of many environments in Gymnasium's form: a dictionary of arrays, each with a mask named with an underscore."""

from __future__ import annotations

from typing import Any

import numpy as np
from numpy.typing import NDArray

from batchpilot.core.limit_arrays import LimitArrays
from batchpilot.core.limits import DISCIPLINES
from batchpilot.core.metrics import METRIC_NAMES

_DISCIPLINE_NAMES = np.array([*DISCIPLINES, None], dtype=object)
"""By code; the last one, which code -1 finds, is the scheduler's own."""


def vector_infos(
    metrics: NDArray[Any], limits: LimitArrays, scenarios: list[str], seeds: list[int], rows: NDArray[np.bool_]
) -> dict[str, Any]:
    """What `BatchingEnv` tells in its info, for many environments.

    Args:
        metrics: records of `core.metrics.METRICS`, shape (n,).
        limits: the limits in force, arrays of shape (n,).
        scenarios: names, one a row.
        seeds: workload seeds, one a row.
        rows: the rows that have an info, shape (n,).

    Returns:
        "metrics" and "limits" (dictionaries of arrays of float64, disciplines by name), "scenario", "seed". A mask is
        false where the row has no info, where a percentile has no sample and where a limit is off.
    """
    n = len(metrics)
    columns = metrics.view(np.float64).reshape(n, len(METRIC_NAMES)).T.copy()
    settings = np.array(limits[:-1])
    codes = limits.discipline.astype(np.int64)
    set_limits = _masked(LimitArrays._fields[:-1], settings, rows & np.isfinite(settings))
    set_limits |= {"discipline": _DISCIPLINE_NAMES[codes], "_discipline": rows & (codes >= 0)}
    return {
        "metrics": _masked(METRIC_NAMES, columns, rows & ~np.isnan(columns)),
        "_metrics": rows.copy(),
        "limits": set_limits,
        "_limits": rows.copy(),
        "scenario": np.array(scenarios, dtype=object),
        "_scenario": rows.copy(),
        "seed": np.array(seeds, dtype=np.int64),
        "_seed": rows.copy(),
    }


def _masked(names: tuple[str, ...], values: NDArray[np.float64], masks: NDArray[np.bool_]) -> dict[str, Any]:
    """One array and one mask a name, from the rows of two matrices."""
    return dict(zip(names, values, strict=True)) | {f"_{name}": mask for name, mask in zip(names, masks, strict=True)}
