"""The study: which setting is next, and when it is enough."""

from __future__ import annotations

import math
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from itertools import product
from pathlib import Path

from batchpilot.core.limits import Limits
from batchpilot.runners.tuning.live.trials import COMPLETE, Trial, keep_trial
from batchpilot.runners.tuning.live.twin import Twin

BATCH_SIZES = (4, 8, 16, 32, 64, 128, 256)
TOKEN_BUDGETS = (256, 512, 1024, 2048, 4096, 8192)
QUEUED_TOKENS = (1024, 2048, 4096, 8192, 16384, 32768)
_CHOICES: dict[str, tuple[int, ...]] = {
    "batch_size": BATCH_SIZES,
    "token_budget": TOKEN_BUDGETS,
    "max_queued_tokens": QUEUED_TOKENS,
}

WORTH_A_START = 0.005
"""An expected improvement below it is worth no start of a server."""

SURPRISE = 0.25
"""Goodput share by which a trial may differ from what was expected of it."""

FEWEST_TRIALS = 3
"""Before so many nobody stops: the twin has been held against too little."""


@dataclass(frozen=True)
class Bounds:
    """When a study ends.

    Attributes:
        trials: most starts, those of earlier runs included.
        minutes: no start that would end after so long, counted from now; infinity for no bound.
    """

    trials: int
    minutes: float = math.inf


def settings(base: Limits, movable: Sequence[str]) -> list[Limits]:
    """Every setting that may be tried, the server's own first.

    Args:
        base: what it is started with otherwise.
        movable: fields that it can be told.
    """
    moved = [name for name in movable if name in _CHOICES]
    grid = [base.replace(**dict(zip(moved, values, strict=True))) for values in product(*(_CHOICES[n] for n in moved))]
    fitting = [one for one in grid if one.token_budget is None or one.batch_size <= one.token_budget]
    return list(dict.fromkeys([base, *fitting]))


def run_study(
    candidates: Sequence[Limits],
    trials: list[Trial],
    path: Path,
    bounds: Bounds,
    *,
    run: Callable[[int, Limits, float], Trial],
    twin_of: Callable[[Sequence[Trial]], Twin | None],
    tell: Callable[[Trial], None],
    now_s: Callable[[], float] = time.monotonic,
) -> str:
    """Start the server with one setting after another.

    Args:
        candidates: settings, the first to be tried first.
        trials: of earlier runs; new ones are added.
        path: file that keeps them.
        bounds: when to end.
        run: one trial: its number, its limits and what the twin expects.
        twin_of: the twin that trials teach, None where they teach too little.
        tell: hears of every trial.
        now_s: the clock.

    Returns:
        Why it ended.
    """
    started, longest = now_s(), 0.0
    while len(trials) < bounds.trials:
        if trials and (now_s() - started) + longest > 60.0 * bounds.minutes:
            return f"another start would take it past {bounds.minutes:g} minutes"
        twin = twin_of(trials)
        chosen, gain = next_setting(candidates, trials, twin)
        if chosen is None:
            return "every setting was tried"
        if twin is not None and gain < WORTH_A_START and len(trials) >= FEWEST_TRIALS:
            beside = neighbours(candidates, trials) if surprised(trials) else []
            chosen = max(beside, key=twin.expected, default=None)
        if chosen is None:
            return f"the twin expects no more than {100 * gain:.1f} points from another start"
        began = now_s()
        keep_trial(path, trials, run(len(trials) + 1, chosen, math.nan if twin is None else twin.expected(chosen)))
        longest = max(longest, now_s() - began)
        tell(trials[-1])
    return f"{bounds.trials} trials were run"


def next_setting(
    candidates: Sequence[Limits], trials: Sequence[Trial], twin: Twin | None
) -> tuple[Limits | None, float]:
    """The setting that is worth a start most, and the improvement that is expected of it.

    Without a twin it is the one farthest from those that were tried.

    Args:
        candidates: all settings.
        trials: so far.
        twin: what they taught.
    """
    tried = [trial.limits for trial in trials]
    left = [one for one in candidates if one not in tried]
    if not left:
        return None, 0.0
    if not tried:
        return left[0], math.inf
    if twin is None:
        return max(left, key=lambda one: min(_apart(one, other) for other in tried)), math.inf
    best = max((trial.goodput for trial in trials if trial.state == COMPLETE), default=0.0)
    chosen = max(left, key=lambda one: (twin.improvement(one, best), twin.expected(one)))
    return chosen, twin.improvement(chosen, best)


def surprised(trials: Sequence[Trial]) -> bool:
    """Whether a trial came to something far from what the twin had expected: then its word alone ends no study.

    Args:
        trials: any.
    """
    return any(abs(trial.expected - trial.goodput) > SURPRISE for trial in trials if trial.state == COMPLETE)


def neighbours(candidates: Sequence[Limits], trials: Sequence[Trial]) -> list[Limits]:
    """Settings that lie one notch beside the best so far and were not tried.

    Args:
        candidates: all settings.
        trials: so far.
    """
    best, tried = best_of(trials), [trial.limits for trial in trials]
    return [] if best is None else [one for one in candidates if one not in tried and _apart(one, best.limits) <= 1.0]


def best_of(trials: Sequence[Trial]) -> Trial | None:
    """The complete trial with the most goodput, None without one.

    Args:
        trials: any.
    """
    complete = [trial for trial in trials if trial.state == COMPLETE]
    return max(complete, key=lambda trial: trial.goodput, default=None)


def _apart(one: Limits, other: Limits) -> float:
    """Distance of two settings in halvings."""
    pairs = [(getattr(one, name), getattr(other, name)) for name in _CHOICES]
    return math.hypot(*(math.log2((a or 1) / (b or 1)) for a, b in pairs))
