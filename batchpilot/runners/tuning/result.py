"""What `tune` found, held against references on the seeds of the study and on seeds that it has not seen."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import asdict, dataclass
from typing import Any

import optuna
from optuna.trial import FrozenTrial, TrialState

from batchpilot.baselines import SERVER_DEFAULT
from batchpilot.baselines.references.static_best import track_grid
from batchpilot.core.limits import Limits
from batchpilot.runners.tuning.bench import Bench
from batchpilot.runners.tuning.search import Search, best_limits, mean_value
from batchpilot.tuners.bayesian.exploring import Exploration
from batchpilot.tuners.bayesian.studies import violation

TUNED, DEFAULT, GRID_BEST, STATIC_BEST = "tuned", "static-default", "grid-best", "static-best"

MEANINGS = {
    TUNED: "the best trial",
    DEFAULT: "what servers ship",
    GRID_BEST: "the setting of the whole grid that is best on average over the study's seeds",
    STATIC_BEST: "the best setting of the grid for each seed by itself, in hindsight",
}

CLOSE = 0.95
"""A trial this share of static-best is close."""

_TRIALS_FOR_IMPORTANCE = 10


@dataclass(frozen=True, slots=True)
class Held:
    """A setting's worth, mean over seeds.

    Attributes:
        limits: the setting; None where each seed has its own.
        seen: on the seeds of the study.
        unseen: on others; None where none were asked for.
    """

    limits: Limits | None
    seen: float
    unseen: float | None


@dataclass(frozen=True, slots=True)
class Told:
    """One trial, for a chart.

    Attributes:
        number: from 0.
        state: complete, pruned or failed.
        value: mean over the seeds that ran; None for a failed one.
        feasible: whether it keeps every constraint.
        limits: what was tried.
    """

    number: int
    state: str
    value: float | None
    feasible: bool
    limits: dict[str, Any] | None


@dataclass(frozen=True, slots=True)
class Tuned:
    """Everything that is reported.

    Attributes:
        limits: the best.
        held: tuned limits and references by name.
        trials: in order.
        trials_until_close: trials until the best so far was `CLOSE` to static-best on the same seeds; None for never,
            or where there is no such reference.
        importances: share of each limit in what made trials differ; empty with too few trials.
        feasible: whether the best trial keeps every constraint.
    """

    limits: Limits
    held: dict[str, Held]
    trials: list[Told]
    trials_until_close: int | None
    importances: dict[str, float]
    feasible: bool

    def to_dict(self) -> dict[str, Any]:
        """The result as plain data."""
        return asdict(self)


def conclude(
    search: Search, exploration: Exploration, bench: Bench, unseen_bench: Bench, unseen: Sequence[int], *, grid: bool
) -> Tuned:
    """Compare the best trial with the references.

    Args:
        search: what was searched.
        exploration: its study.
        bench: what trials ran on.
        unseen_bench: what unseen seeds run on.
        unseen: seeds that the study has not seen.
        grid: whether to search the track's whole grid too, for `grid-best` and `static-best`.

    Raises:
        ValueError: no trial is complete.
    """
    tpot_ms = bench.tpot_ms(search.seeds[0])
    limits = best_limits(search, exploration, tpot_ms)
    held = {name: _held(bench, unseen_bench, one, search.seeds, unseen) for name, one in _fixed(limits).items()}
    if grid:
        seen_table = _table(bench, search.track, search.seeds)
        best = max(seen_table, key=lambda one: sum(seen_table[one]))
        held[GRID_BEST] = _held(bench, unseen_bench, best, search.seeds, unseen)
        hindsight = _table(unseen_bench, search.track, unseen) if unseen else {}
        held[STATIC_BEST] = Held(None, _hindsight(seen_table), _hindsight(hindsight) if unseen else None)
    trials = [_told(trial) for trial in exploration.trials() if trial.state.is_finished()]
    best_trial = exploration.best()
    return Tuned(
        limits,
        held,
        trials,
        _until_close(trials, CLOSE * held[STATIC_BEST].seen) if grid else None,
        _importances(exploration),
        best_trial is not None and violation(best_trial) == 0,
    )


def best_so_far(trials: Iterable[Told]) -> list[float | None]:
    """After each trial, the largest value of a complete feasible one so far.

    Args:
        trials: in order.
    """
    best: float | None = None
    curve = []
    for trial in trials:
        if trial.state == "complete" and trial.feasible and trial.value is not None:
            best = trial.value if best is None else max(best, trial.value)
        curve.append(best)
    return curve


def _fixed(limits: Limits) -> dict[str, Limits]:
    return {TUNED: limits, DEFAULT: SERVER_DEFAULT}


def _held(bench: Bench, unseen_bench: Bench, limits: Limits, seen: Sequence[int], unseen: Sequence[int]) -> Held:
    return Held(limits, _mean(bench, limits, seen), _mean(unseen_bench, limits, unseen) if unseen else None)


def _mean(bench: Bench, limits: Limits, seeds: Sequence[int]) -> float:
    return mean_value([bench.run(limits, seed) for seed in seeds])


def _table(bench: Bench, track: str, seeds: Sequence[int]) -> dict[Limits, list[float]]:
    """The value of every setting of the grid at every seed."""
    settings = track_grid(track, bench.tpot_ms(seeds[0]))
    return {limits: [bench.run(limits, seed).value for seed in seeds] for limits in settings}


def _hindsight(table: dict[Limits, list[float]]) -> float:
    best = [max(values) for values in zip(*table.values(), strict=True)]
    return float(sum(best) / len(best))


def _told(trial: FrozenTrial) -> Told:
    state = {TrialState.COMPLETE: "complete", TrialState.PRUNED: "pruned"}.get(trial.state, "failed")
    return Told(trial.number, state, trial.value, violation(trial) == 0, trial.user_attrs.get("limits"))


def _until_close(trials: Sequence[Told], wanted: float) -> int | None:
    reached = (count for count, best in enumerate(best_so_far(trials), 1) if best is not None and best >= wanted)
    return next(reached, None)


def _importances(exploration: Exploration) -> dict[str, float]:
    """Shares by limit (PED-ANOVA), which sum to 1; none where trials are too few or all alike."""
    complete = [trial for trial in exploration.trials() if trial.state is TrialState.COMPLETE]
    if len(complete) < _TRIALS_FOR_IMPORTANCE or len({trial.value for trial in complete}) < 2:
        return {}
    found = optuna.importance.get_param_importances(exploration.study)
    return {name.removesuffix("_notch"): float(share) for name, share in found.items()}
