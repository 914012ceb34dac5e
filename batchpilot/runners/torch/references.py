"""`static-best` on a real engine: searched on its calibrated simulation, decided on the engine itself."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace

import numpy as np

from batchpilot.baselines.references.static_best import goodput_of, tightest_tpot_ms, track_grid
from batchpilot.core.limits import Limits
from batchpilot.engines.simulated.simulation import run_engine
from batchpilot.envs.backends import Backend
from batchpilot.envs.scenarios import PreparedRun

SPEEDS = (1.0, 1.25, 1.6)
"""Step times of the simulations, in terms of the calibrated ones: a setting must not live on the model being exact."""

FINALISTS = 3


def best_on_engine(run: PreparedRun, track: str, backend: Backend) -> Limits:
    """The fixed setting of a track's grid that a real engine likes best on a run, among those its simulation likes.

    Trying all would take hours. Many settings keep every promise in simulation; those that also do so on a slower one
    come first.

    Args:
        run: the run; its `engine` is the calibrated simulation.
        track: one of `TRACKS`.
        backend: the real engine.

    Raises:
        ValueError: no such track.
    """
    finalists = robust_settings(run, track_grid(track, tightest_tpot_ms(run)), FINALISTS)
    served = [
        run_engine(backend.start(run), limits, window_ms=run.window_ms, horizon_ms=run.horizon_ms)
        for limits in finalists
    ]
    return finalists[int(np.argmax([result.goodput_fraction for result in served]))]


def robust_settings(run: PreparedRun, settings: Sequence[Limits], count: int) -> list[Limits]:
    """The settings with the largest goodput share, averaged over simulated speeds; the earlier ones among equals.

    Args:
        run: the run.
        settings: what is tried.
        count: how many are wanted.
    """
    slower = [replace(run, engine=replace(run.engine, latency=run.engine.latency.scaled(speed))) for speed in SPEEDS]
    shares = [np.mean([goodput_of(one, limits) for one in slower]) for limits in settings]
    return [settings[k] for k in np.argsort(-np.array(shares), kind="stable")[:count]]
