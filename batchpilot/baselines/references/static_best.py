"""`static-best`: the best fixed setting for one run, in hindsight, by trying every setting of a grid.

The grids are nested: every setting of `batch` is in `limits`, and every one of `limits` in `guarded`, so a track's
reference never loses to that of a smaller one.
"""

from __future__ import annotations

import math
from collections.abc import Iterable
from itertools import product

import numpy as np

from batchpilot.baselines.static import SERVER_DEFAULT
from batchpilot.core.limits import TRACKS, Limits
from batchpilot.core.names import lookup
from batchpilot.engines.scheduler.conversations import arrived
from batchpilot.engines.scheduler.state import LENGTH, UNFINISHED
from batchpilot.engines.simulated.engine import SimulatedEngine
from batchpilot.engines.simulated.simulation import run_engine
from batchpilot.envs.scenarios import PreparedRun

_BATCH_SIZES = (1, 2, 4, 8, 12, 16, 24, 32, 48, 64, 96, 128, 192, 256, 384, 512)
_COARSE_BATCH_SIZES = (8, 16, 32, 64, 128, 256)
_TOKEN_BUDGETS = (256, 512, 1024, 2048, 4096, 8192)
_QUEUED_TOKENS = (1000, 2000, 4000, 8000, 16000, 32000, 64000, None)
_STEP_TARGETS = (None, 0.5, 0.75, 1.0, 1.5)
_GUARDS = (0.7, 0.85, 1.0, 1.2, None)

_SPREAD, _LOOKS = 40, 16
"""Every so many settings are tried first, so that a good one is known soon; a run is looked at so often."""

_ROUNDING = 1.0 + 1e-9
"""A promise missed by less may be a rounding error."""


def track_grid(track: str, tpot_ms: float) -> list[Limits]:
    """Every fixed setting that `static-best` tries in a track.

    Args:
        track: one of `TRACKS`.
        tpot_ms: TPOT target that the step targets are multiples of; infinity leaves them off.

    Raises:
        ValueError: no such track.
    """
    fields = lookup(TRACKS, track, "track")
    grid = [SERVER_DEFAULT.replace(batch_size=size) for size in _BATCH_SIZES]
    if "token_budget" in fields:
        triples = product(_COARSE_BATCH_SIZES, _TOKEN_BUDGETS, _QUEUED_TOKENS)
        grid += [Limits(size, budget, queued) for size, budget, queued in triples]
    if "ttft_guard" in fields:
        multiples = _STEP_TARGETS if math.isfinite(tpot_ms) else (None,)
        grid += [
            Limits(size, budget, None, None, None if multiple is None else multiple * tpot_ms, guard, discipline)
            for size, budget, multiple, guard, discipline in product(
                (64, 256), (1024, 2048, 8192), multiples, _GUARDS, ("fcfs", "spf")
            )
        ]
    return list(dict.fromkeys(grid))


def goodput_of(run: PreparedRun, limits: Limits) -> float:
    """Share of the offered output tokens that fixed limits serve within SLO.

    Args:
        run: the run.
        limits: the setting.
    """
    engine = SimulatedEngine(run.engine, run.requests)
    return run_engine(engine, limits, window_ms=1e12, horizon_ms=run.horizon_ms).goodput_fraction


def best_static(run: PreparedRun, settings: Iterable[Limits]) -> tuple[Limits, float]:
    """The setting with the largest goodput share on this very run; the earlier one among equals.

    Args:
        run: the run.
        settings: what is tried.

    Returns:
        The setting and its goodput share.

    Raises:
        ValueError: nothing to try.
    """
    best, goodput = best_statics(run, settings, 1)
    return best[0], goodput


def best_statics(run: PreparedRun, settings: Iterable[Limits], count: int) -> tuple[list[Limits], float]:
    """The settings with the largest goodput shares on this very run; the earlier ones among equals.

    Args:
        run: the run.
        settings: what is tried.
        count: how many are kept.

    Returns:
        The settings, the best first, and the best one's goodput share.

    Raises:
        ValueError: nothing to try.
    """
    settings = list(settings)
    if not settings:
        raise ValueError("no settings to choose from")
    best: list[tuple[float, int]] = []
    for place in sorted(range(len(settings)), key=lambda place: place % _SPREAD):
        bar = best[count - 1] if len(best) >= count else (math.inf, place)
        share = _goodput_above(run, settings[place], place, bar)
        if share is not None:
            best = sorted([*best, (-share, place)])[:count]
    return [settings[place] for _, place in best], -best[0][0]


def _goodput_above(run: PreparedRun, limits: Limits, place: int, bar: tuple[float, int]) -> float | None:
    """`goodput_of`, or None as soon as what cannot be met any more puts the setting behind the bar."""
    engine = SimulatedEngine(run.engine, run.requests)
    engine.set_limits(limits)
    offered = float(run.requests.output_tokens.sum())
    for look in range(_LOOKS if offered and run.horizon_ms is not None else 0):
        engine.run_until((run.horizon_ms or 0.0) * look / _LOOKS)
        if (-(offered - missed_tokens(engine)) / offered, place) > bar:
            return None
    return run_engine(engine, limits, window_ms=1e12, horizon_ms=run.horizon_ms).goodput_fraction


def missed_tokens(engine: SimulatedEngine) -> int:
    """Output tokens of the requests that have missed their promise, or will, whatever comes.

    Args:
        engine: a run under way.
    """
    s = engine.state
    come = arrived(s)
    under_way, now_ms = come["reason"] == UNFINISHED, engine.now_ms
    first_ms = np.where(np.isnan(come["first_ms"]), now_ms, come["first_ms"])
    end_ms = np.where(under_way, now_ms, come["finish_ms"])
    late = first_ms - come["arrival_ms"] > come["ttft_target_ms"] * _ROUNDING
    slow = end_ms - first_ms > come["tpot_target_ms"] * (come["output"] - 1) * _ROUNDING
    turned_away = ~under_way & (come["reason"] != LENGTH)
    return int(come["output"][turned_away | late | slow].sum())


def tightest_tpot_ms(run: PreparedRun) -> float:
    """The smallest TPOT target promised to any request of a run, infinity for an empty one.

    Args:
        run: the run.
    """
    return float(min(run.requests.tpot_target_ms, default=math.inf))
