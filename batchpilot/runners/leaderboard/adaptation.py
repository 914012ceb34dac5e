"""How fast a tuner learns, and how fast it finds back after a shift. Counted in decisions: windows of measurement.

What is judged is the setting that a tuner asks for, not the noisy window it is measured in: a setting is as good as the
share of tokens it would serve within SLO if it were fixed on the same requests, all of them or those after the shift.
A tuner has arrived at the first decision from which it asks for good settings `HELD` times in a row.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from functools import cache

import numpy as np

from batchpilot.baselines import SERVER_DEFAULT, Setting
from batchpilot.baselines.references.static_best import best_static, goodput_of, tightest_tpot_ms, track_grid
from batchpilot.configs.scenario import Scenario
from batchpilot.configs.tuner import TunerConfig
from batchpilot.core.limits import Limits
from batchpilot.core.metrics import WindowMetrics
from batchpilot.engines.simulated.simulation import run_engine
from batchpilot.envs.backends import SimulatedBackend
from batchpilot.envs.scenarios import PreparedRun, prepare
from batchpilot.runners.leaderboard.evaluation import tightest_slo
from batchpilot.runners.leaderboard.strategies import make_strategy

LEARNT = 0.95
"""Of the best fixed setting's goodput: when a tuner has learnt."""

BACK = 0.90
"""Of the best fixed setting after a shift: when a tuner is back."""

HELD = 5


@dataclass(frozen=True)
class Adaptation:
    """What was found for one tuner on one run.

    Attributes:
        decisions: until it arrived, 0 if it stood there already; NaN if it never did.
        best: goodput share of the best fixed setting, on all requests or those after the shift.
        final: that of the setting asked for last.
    """

    decisions: float
    best: float
    final: float


def sample_efficiency(scenario: Scenario, seed: int, name: str, track: str) -> Adaptation:
    """Decisions until a tuner asks for settings within 5 % of the best fixed one, from a cold start.

    Args:
        scenario: of stationary load, since one setting is held to be the best throughout.
        seed: its seed.
        name: a strategy as typed; no reference.
        track: the limits that the best setting may use.

    Raises:
        ValueError: an unknown tuner or track, or a scenario that cannot be prepared.
    """
    run = prepare(scenario, seed)
    return _arrival(run, [window.limits for window in heard(run, name, track)], track, LEARNT)


def reaction(scenario: Scenario, seed: int, name: str, track: str) -> Adaptation:
    """Decisions after the first shift until a tuner asks for settings within 10 % of the best fixed one from then on.

    Args:
        scenario: with phases or a drift; what follows a second shift is not looked at.
        seed: its seed.
        name: a strategy as typed; no reference.
        track: the limits that the best setting may use.

    Raises:
        ValueError: as `sample_efficiency`, or nothing shifts in the scenario.
    """
    run = prepare(scenario, seed)
    start_s, end_s = first_shift_s(scenario)
    windows = heard(run, name, track)
    limits = [window.limits for window in windows if 1000 * start_s <= window.start_ms < 1000 * end_s]
    return _arrival(between(run, start_s, end_s), limits, track, BACK)


def first_shift_s(scenario: Scenario) -> tuple[float, float]:
    """When a scenario's load or device first changes, and when it changes again or ends.

    Args:
        scenario: with phases or a drift.

    Raises:
        ValueError: nothing shifts in it, or it has no end.
    """
    lengths = [phase.duration_s for phase in scenario.workload.phases or ()]
    moments = {float(moment) for moment in np.cumsum(lengths)[:-1]}
    for change in scenario.engine.drift:
        moments |= {change.start_s} | ({change.end_s} if change.kind != "model_switch" else set())
    if not moments or scenario.duration_s is None:
        raise ValueError(f"nothing shifts in {scenario.name}; phases or a drift, and an end, are needed")
    start, *later = sorted(moments - {0.0})
    return start, later[0] if later else scenario.duration_s


def between(run: PreparedRun, start_s: float, end_s: float) -> PreparedRun:
    """The part of an open-loop run that arrives between two moments, on the device as it is then.

    Args:
        run: the whole run.
        start_s: where the part begins; it becomes time 0.
        end_s: where its arrivals end.
    """
    start_ms, grace_ms = 1000 * start_s, (run.horizon_ms or math.inf) - 1000 * (run.scenario.duration_s or math.inf)
    passed = [parameters for moment, parameters in run.engine.drift if moment <= start_ms]
    coming = tuple((moment - start_ms, parameters) for moment, parameters in run.engine.drift if moment > start_ms)
    engine = replace(run.engine, latency=passed[-1] if passed else run.engine.latency, drift=coming)
    requests = run.requests.window(start_ms, 1000 * end_s)
    return replace(run, engine=engine, requests=requests, horizon_ms=1000 * (end_s - start_s) + grace_ms)


def heard(run: PreparedRun, name: str, track: str) -> list[WindowMetrics]:
    """The windows that a tuner hears, which say what it asked for and when.

    Args:
        run: the run.
        name: a strategy as typed; no reference.
        track: the limits that it may use.

    Raises:
        ValueError: an unknown tuner.
    """
    setting = Setting(TunerConfig(), SERVER_DEFAULT, tightest_slo(run), run.seed, track, run.engine.believed_latency())
    tuner = make_strategy(name, setting)
    engine = SimulatedBackend().start(run, record_steps=tuner.needs_details)
    result = run_engine(engine, tuner, window_ms=run.window_ms, horizon_ms=run.horizon_ms)
    return list(result.windows)


def arrived(limits: Sequence[Limits], good: Callable[[Limits], bool], held: int = HELD) -> float:
    """The first place from which `held` settings in a row are good; fewer where the run ends. NaN without one.

    Args:
        limits: what was asked for, in order.
        good: whether a setting is good enough.
        held: how many in a row, >= 1.
    """
    count = 0
    for place, setting in enumerate(limits):
        count = count + 1 if good(setting) else 0
        if count == held:
            return float(place - held + 1)
    return float(len(limits) - count) if count else math.nan


def _arrival(run: PreparedRun, limits: Sequence[Limits], track: str, share: float) -> Adaptation:
    _, best = best_static(run, track_grid(track, tightest_tpot_ms(run)))
    quality = cache(lambda setting: goodput_of(run, setting))
    decisions = arrived(limits, lambda setting: quality(setting) >= share * best)
    return Adaptation(decisions, best, quality(limits[-1]) if limits else math.nan)
