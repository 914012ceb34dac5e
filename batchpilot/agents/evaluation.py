"""Playing many prepared runs at once: what a policy, or limits that never move, achieve on the same requests."""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from batchpilot.core.actions import ActionTable
from batchpilot.envs.rows import SimulationRows
from batchpilot.envs.scenarios import PreparedRun

Decide = Callable[[NDArray[np.float32]], NDArray[np.int64]]
"""From observations of shape (n, F) to actions of shape (n, fields); called once a decision, in order."""

ROWS = 256
"""Runs played side by side, which bounds the memory."""


@dataclass(frozen=True)
class Played:
    """What came of one run.

    Attributes:
        good_tokens: output tokens of the requests that met their SLO, by the window in which they finished, shape (w,).
        offered_tokens: output tokens of all requests.
        positions: notches of the limits in force in each window, shape (w, fields).
    """

    good_tokens: NDArray[np.float64]
    offered_tokens: float
    positions: NDArray[np.int64]

    @property
    def goodput_fraction(self) -> float:
        """Share of the offered output tokens served within SLO; NaN where nothing was offered."""
        return float(self.good_tokens.sum()) / self.offered_tokens if self.offered_tokens else math.nan

    @property
    def offered_per_window(self) -> float:
        """Output tokens offered per window, at least 1."""
        return max(self.offered_tokens / max(len(self.good_tokens), 1), 1.0)


def play(
    runs: Sequence[PreparedRun],
    table: ActionTable,
    make_decide: Callable[[int], Decide] | None = None,
    *,
    starts: NDArray[np.int64] | None = None,
    interval_ms: float | None = None,
) -> list[Played]:
    """Play every run once.

    Args:
        runs: what to play.
        table: what actions mean.
        make_decide: gives a policy for so many runs side by side; None never moves from the base.
        starts: positions to start from, shape (runs, fields); None starts from the table's base.
        interval_ms: engine time of a decision; None takes each run's.

    Returns:
        One result a run, in their order.
    """
    found: list[Played] = []
    for start in range(0, len(runs), ROWS):
        some = slice(start, start + ROWS)
        found += _play(runs[some], table, make_decide, None if starts is None else starts[some], interval_ms)
    return found


def _play(
    runs: Sequence[PreparedRun],
    table: ActionTable,
    make_decide: Callable[[int], Decide] | None,
    starts: NDArray[np.int64] | None,
    interval_ms: float | None,
) -> list[Played]:
    n = len(runs)
    decide = None if make_decide is None else make_decide(n)
    rows = SimulationRows(n, threads=1)
    for i, run in enumerate(runs):
        rows.load(i, run)
    intervals = np.array([run.window_ms if interval_ms is None else interval_ms for run in runs])
    horizons = np.array([math.inf if run.horizon_ms is None else run.horizon_ms for run in runs])
    positions = starts if starts is not None else np.array([table.start(float(t)) for t in rows.tpot_target_ms])
    windows: list[NDArray[np.float64]] = []
    visited: list[NDArray[np.int64]] = []
    played = np.zeros(n, dtype=np.int64)
    until = rows.now_ms.copy()
    while True:
        limits = table.to_arrays(positions, rows.tpot_target_ms)
        rows.set_limits(limits)
        rows.run_until(until)
        windows.append(rows.metrics["goodput_tokens_per_s"] * rows.metrics["duration_ms"] / 1000.0)
        over = rows.finished | (rows.now_ms >= horizons)
        if over.all():
            break
        played += ~over
        visited.append(positions)
        if decide is not None:
            positions = table.move(positions, decide(rows.observations.copy()))
        until = np.where(over, rows.now_ms, np.minimum(rows.now_ms + intervals, horizons))
    tokens = np.array(windows[1:]).reshape(-1, n)
    offered = [float(run.requests.output_tokens.sum()) for run in runs]
    notches = np.array(visited).reshape(-1, n, len(table.grids))
    return [Played(tokens[: played[i], i].copy(), offered[i], notches[: played[i], i].copy()) for i in range(n)]
