"""A window run, measured and observed in compiled code, for one engine or for many rows. Times in ms."""

from __future__ import annotations

import math

from batchpilot.core.features import fill_features
from batchpilot.engines.scheduler.calendars import follow_limits
from batchpilot.engines.scheduler.in_force import put_limits
from batchpilot.engines.scheduler.state import SchedulerState, row
from batchpilot.engines.scheduler.windows import open_window, run_open, summarise
from batchpilot.latency.model.compiled import allocating, kernel

_fill = kernel(fill_features)


@kernel
def observe(metrics, limits, quantities, observations, i: int) -> None:  # type: ignore[no-untyped-def]
    """The features of row `i`.

    Args:
        metrics: windows, shape (n, fields of `core.metrics.METRICS`).
        limits: the limits in force, shape (n, fields of `LimitArrays`).
        quantities: room to work, shape (n, `core.features.QUANTITIES`).
        observations: where the features are written, shape (n, F), float32.
        i: the row.
    """
    measured = metrics.shape[1]
    for k in range(measured):
        quantities[i, k] = metrics[i, k]
    for k in range(limits.shape[1]):
        quantities[i, measured + k] = limits[i, k]
    _fill(quantities[i], observations[i])


@allocating
def run_rows(  # type: ignore[no-untyped-def]
    s: SchedulerState, first: int, end: int, until_ms, codes, own, records, metrics, limits, quantities, observations
) -> None:
    """Put limits into force, run, measure and observe some rows; rows share nothing, so threads may each run some.

    Calendars of decoding stay open from one call to the next.

    Args:
        s: state with a leading axis of simulations, n rows.
        first: the first row.
        end: the one after the last.
        until_ms: times to reach, shape (n,); a row that is there already measures an empty window.
        codes: where it is written how each `advance` ended, shape (n,), int64.
        own: the engines' own discipline and drafted tokens, where limits do not say, shape (2, n), int64.
        records: the windows as records of `core.metrics.METRICS`, shape (n,).
        metrics: the same memory as numbers, see `observe`, like the rest.
        limits: to put into force.
        quantities: room to work.
        observations: of the windows.
    """
    for i in range(first, end):
        one = row(s, i)
        put_limits(one, limits[i], own[0, i], own[1, i])
        follow_limits(one)
        done, codes[i] = run_open(one, math.inf, until_ms[i], records[i : i + 1])
        if done == 0:
            summarise(one, records[i : i + 1])
            open_window(one)
        observe(metrics, limits, quantities, observations, i)
