"""The Optuna tuner: each trial holds limits for some whole windows; after its budget the best ones stay.

In a trial, a window measured at other limits is ignored, an odd or idle one is counted and held, one with a failed step
ends the trial. Each measured window is reported, and a trial whose windows are among the worst quarter so far is pruned
before its time. When `trials` are told, the best is locked: least violation of the constraints first, then the
largest value. The dynamic strategy then watches the arrival rate and, when it changes, opens a new study that starts
from the limits that were the best; the hybrid strategy stays.

With a twin, the requests of the first trial are replayed on a simulation whose steps take what is believed, also faster
and slower ones, and what that expects of settings is the prior of the study (`prior.py`).

A trial's end costs what Optuna takes to propose the next, milliseconds to tens of them; every other `tell` is sums. The
end of the first trial with a twin costs seconds, once a study.
"""

from __future__ import annotations

import math
import threading
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
from optuna.pruners import PercentilePruner
from optuna.study import get_all_study_names

from batchpilot.baselines import SERVER_DEFAULT
from batchpilot.configs.tuner import TunerConfig
from batchpilot.core import SLO, Limits, Tuner, WindowMetrics
from batchpilot.core.details import WindowDetails, believable
from batchpilot.core.slo import can_be_aimed_at
from batchpilot.latency.model.saturation import SaturationParameters
from batchpilot.tuners.bayesian.exploring import Exploration
from batchpilot.tuners.bayesian.foreseen import foreseen
from batchpilot.tuners.bayesian.measuring import Measurement, is_idle, is_unusable, window_value
from batchpilot.tuners.bayesian.settings import Settings
from batchpilot.tuners.bayesian.space import SearchSpace
from batchpilot.tuners.bayesian.studies import open_storage
from batchpilot.tuners.planning.traffic import Traffic
from batchpilot.tuners.planning.worth import believed_kv_tokens
from batchpilot.tuners.probe.load import LoadTracker
from batchpilot.tuners.probe.phases import Phase
from batchpilot.tuners.probe.score import ScoreBoard

KEPT_PERCENT = 75.0
"""A trial is hopeless when its best window so far is among the worst quarter at that step."""

TRIALS_BEFORE_PRUNING = 4

_CLOCK_SLACK_MS = 1e-3
_COUNTERS = ("windows_heard", "windows_held", "windows_ignored", "windows_odd", "windows_failed")


class OptunaTuner(Tuner):
    """Moves the limits of a track by Bayesian optimisation.

    Args:
        config: the `dynamic_batch_tuner` section: bounds of the batch size, weights of the score, memory limit, load
            change, and the strategy (dynamic re-opens, any other locks); None for the defaults.
        base: the limits to start from, whose other fields are kept; None for what servers ship.
        slo: its TPOT target is what step targets are multiples of; None takes it from the windows.
        seed: of the sampler's draws.
        storage: where the study lives: an SQLAlchemy URL or a journal file; None for memory. A study that is there
            already goes on, and the trials of processes that died are told as failed.
        study_name: its name there; a number follows that counts re-openings.
        twin: step latency that is believed of the engine, for a prior; None for none. It is no part of a saved state.
        **options: fields of `Settings`.

    Attributes:
        name: "optuna-" and the sampler.

    Raises:
        ValueError: an option is outside its bound, or the storage cannot be opened.
        TypeError: there is no such option.
    """

    _exploration: Exploration
    _limits: Limits
    _phase: Phase
    _counts: dict[str, int]
    _details: WindowDetails | None

    def __init__(
        self,
        config: TunerConfig | None = None,
        *,
        base: Limits | None = None,
        slo: SLO | None = None,
        seed: int = 0,
        storage: str | Path | None = None,
        study_name: str = "batchpilot",
        twin: SaturationParameters | None = None,
        **options: Any,
    ) -> None:
        self._settings = Settings(**options)
        if twin is not None and self._settings.objective == "score":
            raise ValueError("a twin tells tokens within the promise; objective 'score' has no use for it")
        self._twin, self.needs_details = twin, twin is not None
        self.name = f"optuna-{self._settings.sampler}"
        self._config = config or TunerConfig()
        self._base = base or SERVER_DEFAULT
        self._slo_tpot_ms = slo.tpot_ms if slo is not None else math.nan
        self._seed = seed
        self._study_name = study_name
        self._storage = open_storage(storage)
        self._lock = threading.Lock()
        self._opening = self._study_number = self._last_study()
        self._begin("exploring from the base limits")

    def ask(self) -> Limits:
        """The limits of the running trial, or the locked ones."""
        return self._limits

    def study(self, details: WindowDetails) -> None:
        """Hear what came, for the twin.

        Args:
            details: of the window that `tell` hears next.
        """
        believed = believable(details)
        if believed is not None and self._phase is not Phase.STABLE_RUNNING:
            with self._lock:
                self._traffic.hear(believed)
                self._details = believed

    def tell(self, metrics: WindowMetrics) -> None:
        """Hear one completed window; see the module for how.

        Args:
            metrics: the window's measurements and the limits under which they were taken.
        """
        with self._lock:
            self._counts["windows_heard"] += 1
            if metrics.limits != self._limits:
                self._counts["windows_ignored"] += 1
                return
            if is_unusable(metrics) or self._goes_backwards(metrics):
                self._counts["windows_odd"] += 1
                return
            if is_idle(metrics):
                self._counts["windows_held"] += 1
                return
            if self._details is not None:
                self._kv_tokens, self._details = believed_kv_tokens(self._details, metrics), None
            if can_be_aimed_at(metrics.tpot_target_ms):
                self._window_tpot_ms = metrics.tpot_target_ms
            if self._phase is Phase.STABLE_RUNNING:
                self._watch(metrics)
            else:
                self._measure(metrics)

    def reset(self, seed: int | None = None) -> None:
        """Forget everything learned: a new study from the base limits. One kept in a storage stays there.

        Args:
            seed: of the sampler's draws; None keeps the constructor's.
        """
        with self._lock:
            self._exploration.abandon()
            self._seed = self._seed if seed is None else seed
            self._opening, self._study_number = 0, self._last_study() + 1
            self._begin("exploring from the base limits")

    def status(self) -> dict[str, Any]:
        """What the tuner is doing and why, how many trials were told, and the best of them."""
        with self._lock:
            best = self._exploration.best()
            return {
                "strategy": self._config.strategy,
                "phase": self._phase.value,
                "current_batch_size": self._limits.batch_size,
                "is_stabilized": self._phase is Phase.STABLE_RUNNING,
                "sampler": self._settings.sampler,
                "objective": self._settings.objective,
                "trials_told": self._exploration.told,
                "trials": self._settings.trials,
                "windows_of_trial": self._measurement.windows,
                "best_score": None if best is None else best.value,
                "best_limits": None if best is None else str(self._exploration.limits_of(best, self._tpot_ms)),
                "reason": self._reason,
                **self._counts,
            }

    def state_dict(self) -> dict[str, Any]:
        """Everything needed to go on elsewhere as plain data: every trial told so far, and the running one."""
        with self._lock:
            return {
                "tuner": "optuna",
                "config": self._config.to_dict(),
                "settings": self._settings.to_dict(),
                "base": self._base.to_dict(),
                "seed": self._seed,
                "opening": self._opening,
                "slo_tpot_ms": _number_or_none(self._slo_tpot_ms),
                "window_tpot_ms": _number_or_none(self._window_tpot_ms),
                "trials": self._exploration.to_list(),
                "running": self._exploration.params,
                "reported": self._exploration.reported,
                "measurement": self._measurement.to_dict(),
                "board": self._board.state_dict(),
                "load": self._load.state_dict(),
                "limits": self._limits.to_dict(),
                "phase": self._phase.value,
                "reason": self._reason,
                "clock_ms": self._clock_ms,
                "counts": dict(self._counts),
            }

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        """Go on where another Optuna tuner was, in a new study of this tuner's storage.

        Args:
            state: what `state_dict` returned.

        Raises:
            ValueError: the state is another tuner's, or a field is missing; nothing is changed then.
        """
        if state.get("tuner") != "optuna":
            raise ValueError(f"this is the state of {state.get('tuner')!r}, not of an Optuna tuner")
        try:
            config = TunerConfig.from_dict(state["config"], warn=False)
            settings, base = Settings.from_dict(state["settings"]), Limits.from_dict(state["base"])
            measurement, load = Measurement.from_dict(state["measurement"]), LoadTracker()
            load.load_state_dict(state["load"])
            board = ScoreBoard(config)
            board.load_state_dict(state["board"])
            limits, phase, reason = Limits.from_dict(state["limits"]), Phase(state["phase"]), str(state["reason"])
            counts = {name: int(state["counts"][name]) for name in _COUNTERS}
            clock_ms, seed = float(state["clock_ms"]), int(state["seed"])
            slo_tpot_ms, window_tpot_ms = _number(state["slo_tpot_ms"]), _number(state["window_tpot_ms"])
            opening, number = int(state["opening"]), self._last_study() + 1
            exploration = self._explore(_space(settings, config, base), settings, number, (seed, opening))
            exploration.extend(state["trials"])
            if state["running"] is not None:
                tpot_ms = window_tpot_ms if math.isnan(slo_tpot_ms) else slo_tpot_ms
                exploration.resume(state["running"], state["reported"], tpot_ms)
        except (KeyError, TypeError) as error:
            raise ValueError(f"the state of the Optuna tuner is incomplete: {error!r}") from error
        with self._lock:
            self._exploration.abandon()
            self.name = f"optuna-{settings.sampler}"
            self._config, self._settings, self._base, self._seed = config, settings, base, seed
            self._exploration, self._opening, self._study_number = exploration, opening, number
            self._measurement, self._load, self._board = measurement, load, board
            self._limits, self._phase, self._reason = limits, phase, reason
            self._counts, self._clock_ms = counts, clock_ms
            self._slo_tpot_ms, self._window_tpot_ms = slo_tpot_ms, window_tpot_ms

    @property
    def _tpot_ms(self) -> float:
        return self._window_tpot_ms if math.isnan(self._slo_tpot_ms) else self._slo_tpot_ms

    def _begin(self, reason: str) -> None:
        """Start from nothing but what the storage holds of the present study."""
        self._window_tpot_ms = math.nan
        self._clock_ms = 0.0
        self._counts = dict.fromkeys(_COUNTERS, 0)
        self._load = LoadTracker()
        self._board = ScoreBoard(self._config)
        self._traffic, self._details, self._kv_tokens = Traffic(), None, 0
        space = _space(self._settings, self._config, self._base)
        self._exploration = self._explore(space, self._settings, self._study_number, (self._seed, self._opening))
        self._exploration.suggest(space.base_params(self._tpot_ms))
        self._phase = Phase.INITIAL_PROBING
        self._go_on(reason)

    def _explore(self, space: SearchSpace, settings: Settings, number: int, seed: tuple[int, int]) -> Exploration:
        name = f"{self._study_name}-{number}"
        return Exploration(
            space,
            settings.sampler,
            name=name,
            storage=self._storage,
            seed=seed,
            startup_trials=settings.startup_trials,
            pruner=PercentilePruner(
                KEPT_PERCENT, n_startup_trials=TRIALS_BEFORE_PRUNING, n_min_trials=TRIALS_BEFORE_PRUNING
            ),
        )

    def _last_study(self) -> int:
        """The number of the newest study of our name in the storage, 0 without one."""
        prefix = f"{self._study_name}-"
        ends = [name.removeprefix(prefix) for name in get_all_study_names(self._storage) if name.startswith(prefix)]
        return max((int(end) for end in ends if end.isdecimal()), default=0)

    def _measure(self, metrics: WindowMetrics) -> None:
        """Credit a window to the running trial, and end the trial when it is over, hopeless or harmful."""
        value = window_value(metrics, self._settings.objective, self._board)
        per_trial = self._settings.windows_per_trial
        entered = self._measurement.add(metrics, value, most_transient=per_trial)
        if metrics.failures:
            self._counts["windows_failed"] += 1
            self._conclude(hopeless=False, reason="a step failed in the last trial")
        elif entered and self._exploration.is_hopeless(value, self._measurement.measured):
            self._conclude(hopeless=True, reason="the last trial was hopeless")
        elif self._measurement.measured >= per_trial - 1:
            self._conclude(hopeless=False, reason="exploring")

    def _conclude(self, *, hopeless: bool, reason: str) -> None:
        constraints = self._measurement.constraints(self._settings.least_attainment, self._config.memory_usage_limit)
        self._exploration.tell(None if hopeless else self._measurement.value, constraints)
        self._look_ahead()
        self._go_on(reason)

    def _look_ahead(self) -> None:
        """Ask the twin what it expects of settings, once a study, when the first requests are known."""
        if self._twin is None or self._exploration.prior is not None or not self._traffic.known:
            return
        space = _space(self._settings, self._config, self._base)
        seed = np.random.SeedSequence([self._seed, self._opening])
        self._exploration.believe(
            foreseen(self._traffic, self._twin, space, self._tpot_ms, self._kv_tokens, np.random.default_rng(seed))
        )

    def _go_on(self, reason: str) -> None:
        """Begin the next trial, or lock the best one once enough were told."""
        self._measurement = Measurement()
        best = self._exploration.believed_best()
        if best is not None and self._exploration.told >= self._settings.trials:
            self._limits = self._exploration.limits_of(best, self._tpot_ms)
            self._phase = Phase.STABLE_RUNNING
            self._load.rebase()
            self._reason = f"locked trial {best.number}, the best of {self._exploration.told}: {self._limits}"
        else:
            self._limits = self._exploration.ask(self._tpot_ms)
            self._reason = f"{reason}: trial {self._exploration.told + 1} of {self._settings.trials}, {self._limits}"

    def _watch(self, metrics: WindowMetrics) -> None:
        """Hear a window at the locked limits; under the dynamic strategy a change of load opens a new study."""
        if self._config.strategy != "dynamic":
            return
        if not self._load.changed(metrics.arrivals, metrics.duration_ms, self._config.load_change_threshold):
            return
        best = self._exploration.believed_best()
        self._opening += 1
        self._traffic = Traffic()
        self._study_number = self._last_study() + 1
        space = _space(self._settings, self._config, self._base)
        self._exploration = self._explore(space, self._settings, self._study_number, (self._seed, self._opening))
        if best is not None:
            self._exploration.suggest(best.params)
        self._phase = Phase.RE_EVALUATION
        self._go_on("the load changed")

    def _goes_backwards(self, metrics: WindowMetrics) -> bool:
        ended, self._clock_ms = self._clock_ms, metrics.end_ms
        return metrics.start_ms < ended - _CLOCK_SLACK_MS


def _space(settings: Settings, config: TunerConfig, base: Limits) -> SearchSpace:
    return SearchSpace(settings.track, base, min_batch_size=config.min_batch_size, max_batch_size=config.max_batch_size)


def _number_or_none(value: float) -> float | None:
    return value if math.isfinite(value) else None


def _number(value: float | None) -> float:
    return math.nan if value is None else float(value)
