"""Everything the probe tuner knows, and the verbs that its phases share: move, record, forget, change the phase.

Source: dynamic batch tuner document, phases and safety (SPEC 1).
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from typing import Any

from batchpilot.configs.tuner import TunerConfig
from batchpilot.tuners.probe.adjustment import LONG_STEP_MS
from batchpilot.tuners.probe.load import LoadTracker
from batchpilot.tuners.probe.mix import WorkMix
from batchpilot.tuners.probe.phases import Phase
from batchpilot.tuners.probe.probing import Probe
from batchpilot.tuners.probe.safety import Fallback, Trend, allowed_mb, unacceptable
from batchpilot.tuners.probe.sample import Evidence, Sample
from batchpilot.tuners.probe.score import ScoreBoard
from batchpilot.tuners.probe.stability import StabilityWindow

LONGEST_COOLDOWN = 32
SMALL_MOVE = 0.1
"""A move by at most this share, or by 1, disturbs the batch too little to wait for."""

_UNSETTLED = {
    Evidence.FILLING: Evidence.SATURATED,
    Evidence.OVERHANG: Evidence.BINDING,
    Evidence.DRAINING: Evidence.DRAINING,
}
"""What a batch that still changes counts as once patience is over; a draining one is never credited."""

STEP_TIME_FORGETTING = 0.7
"""The step time that shrinks a batch is a mean over about the last three windows' steps."""

_PARTS = ("board", "stability", "memory", "step_time", "load", "mix")
_PLAIN = (
    "size",
    "reason",
    "scores",
    "consecutive_failures",
    "low_scores",
    "ceiling",
    "settle_ms",
    "settling_ms",
    "unsettled_ms",
    "cycle",
    "light_decisions",
    "probe_pending",
    "candidates",
    "trial_home",
    "steps_since_trial",
    "trial_steps",
    "healthy_needed",
    "cooldown",
    "load_changed",
    "total_mb",
)
"""Attributes that are plain data and travel as they are."""


class TunerState:
    """What the tuner knows between two decisions. Not thread-safe; the tuner around it is.

    Args:
        config: the `dynamic_batch_tuner` section.
        settle_ms: measured time that is left unjudged after a larger move.

    Attributes:
        config: the section in force.
        phase: what the tuner is doing.
        size: the batch size to run with.
        reason: why, in one sentence.
        board: scores by size.
        probe: the probe under way, if any.
        probe_pending: whether a probe has yet to finish, also while it waits for load.
        stability: the last adjustment cycles.
        memory: peak memory by batch, in MB.
        step_time: step time by batch, in ms.
        load: arrivals now against before.
        mix: prompt tokens for each generated one.
        load_changed: whether they have changed since the scores were taken.
        scores: the last scores, whatever their size.
        fallback: the level of fallback in force.
        low_scores: scores well below the best in a row, at one size.
        consecutive_failures: failed windows in a row.
        ceiling: largest size that failures have left; None for no bound beside the configuration's.
        settle_ms: as above.
        settling_ms: what is left of it after the last move.
        unsettled_ms: time spent waiting for the batch to settle at this size.
        cycle: adjustment decisions, which time the oscillation.
        light_decisions: decisions in a row in which a pending probe found too little load.
        candidates: sizes that re-evaluation has yet to measure, the present one first.
        trial_home: the size to return to from a trial; None without a trial.
        steps_since_trial: steps since the last trial.
        trial_steps: steps that the last trial took.
        healthy_needed: windows that the safe state still waits for.
        cooldown: windows that the next safe state will wait for.
        total_mb: the device's memory, 0 when unknown.
    """

    def __init__(self, config: TunerConfig, settle_ms: float = 0.0) -> None:
        self.config = config
        self.settle_ms = settle_ms
        self.phase = Phase.INITIAL_PROBING
        self.size = config.initial_batch_size
        self.reason = f"serving at the initial size {self.size} until the first measurement"
        self.board = ScoreBoard(config)
        self.probe: Probe | None = None
        self.probe_pending = True
        self.stability = StabilityWindow()
        self.memory = Trend()
        self.step_time = Trend(forgetting=STEP_TIME_FORGETTING)
        self.load = LoadTracker()
        self.mix = WorkMix()
        self.load_changed = False
        self.scores: list[float] = []
        self.fallback = Fallback.NONE
        self.low_scores = 0
        self.consecutive_failures = 0
        self.ceiling: int | None = None
        self.settling_ms = 0.0
        self.unsettled_ms = 0.0
        self.cycle = 0
        self.light_decisions = 0
        self.candidates: list[int] = []
        self.trial_home: int | None = None
        self.steps_since_trial = 0.0
        self.trial_steps = 0.0
        self.healthy_needed = 0
        self.cooldown = 1
        self.total_mb = 0.0

    @property
    def highest(self) -> int:
        """Largest size that the configuration and past failures allow."""
        most = self.config.max_batch_size
        return most if self.ceiling is None else max(self.config.min_batch_size, min(most, self.ceiling))

    @property
    def is_settling(self) -> bool:
        """Whether the next measured time is left unjudged anyway."""
        return self.settling_ms > 0.0

    @property
    def awaits_load_change(self) -> bool:
        """Whether the load has changed and the phase answers that; a search goes on measuring as it would anyway."""
        return self.load_changed and self.phase in (Phase.DYNAMIC_ADJUSTMENT, Phase.STABLE_RUNNING)

    @property
    def best_size(self) -> int:
        """The best size known, the present one before any measurement."""
        return self.board.best_size or self.size

    def fits_memory(self, size: int) -> bool:
        """Whether memory allows a size, as far as is known; False only where a smaller size would need less.

        Args:
            size: a batch size.
        """
        if size > self.highest:
            return False
        allowed = allowed_mb(self.total_mb, self.config)
        return self.total_mb == 0 or self._within(self.memory, size, allowed)

    def is_quick(self, size: int) -> bool:
        """Whether a step at a size stays within 1000 ms, as far as is known; False only where a smaller one would.

        Args:
            size: a batch size.
        """
        return self._within(self.step_time, size, LONG_STEP_MS)

    def move(self, size: int, reason: str) -> None:
        """Run with a size from now on, within bounds and ceiling.

        Args:
            size: the batch size.
            reason: one sentence for people.
        """
        size = max(self.config.min_batch_size, min(size, self.highest))
        if size != self.size:
            self.low_scores = 0
            self.unsettled_ms = 0.0
            self.settling_ms = self.settle_ms if abs(size - self.size) > max(1.0, SMALL_MOVE * self.size) else 0.0
        self.size, self.reason = size, reason

    def start_probe(self, first: int, why: str) -> None:
        """Probe from a size, with every score forgotten.

        Args:
            first: the first size to measure; brought within bounds and ceiling.
            why: for people.
        """
        config = self.config
        self.forget_scores()
        low, high = config.min_batch_size, self.highest
        first = max(low, min(first, high))
        self.probe = Probe(first, high, low, config.probing_growth_factor, config.max_probing_attempts)
        self.probe_pending = True
        self.phase = Phase.INITIAL_PROBING
        self.move(first, why)

    def enter_safe_state(self, why: str) -> None:
        """Forget everything learned and run at the minimum until the engine has proved healthy.

        Args:
            why: for people.
        """
        self.forget_scores()
        self.probe, self.probe_pending = None, True
        self.consecutive_failures = 0
        self.healthy_needed, self.cooldown = self.cooldown, min(2 * self.cooldown, LONGEST_COOLDOWN)
        self.phase = Phase.SAFE_FALLBACK
        self.move(self.config.min_batch_size, f"safe state at the minimum: {why}")

    def re_evaluate(self, sizes: Iterable[int], why: str) -> None:
        """Measure sizes anew, with every score forgotten, and go on from the better one.

        Args:
            sizes: at least one, the first to measure first.
            why: for people.
        """
        self.forget_scores()
        bounded = (max(self.config.min_batch_size, min(size, self.highest)) for size in sizes)
        self.candidates = list(dict.fromkeys(bounded))
        self.phase = Phase.RE_EVALUATION
        self.move(self.candidates[0], f"re-evaluating at {self.candidates[0]}: {why}")

    def score(self, sample: Sample) -> float:
        """The sample's score, added to the history.

        Args:
            sample: a measurement.
        """
        score = self.board.score(sample)
        self.scores.append(score)
        del self.scores[: -self.config.metrics_history_size]
        return score

    def record(self, sample: Sample) -> bool:
        """Credit a sample, scored before, to the present size.

        Args:
            sample: a measurement of it.

        Returns:
            Whether it is acceptable; if not, the size scores 0 and the reason says why.
        """
        why = unacceptable(sample, self.config)
        if why is None:
            self.board.record(self.size, sample)
            return True
        self.board.reject(self.size)
        self.reason = f"size {self.size} is not acceptable: {why}"
        return False

    def settled(self, sample: Sample) -> Evidence | None:
        """The sample's evidence; None just after a larger move, and while the batch changes and patience lasts.

        Patience is `probing_timeout_ms`. Just after a move the batch holds the move itself: the prompts of the requests
        newly admitted, or none at all while a smaller limit admits nobody. The growing probe does not wait for the
        latter: its steps are far larger than that error.

        Args:
            sample: a measurement.
        """
        evidence = sample.evidence
        if evidence is Evidence.OVERHANG and self.probe is not None and not self.probe.low:
            evidence = Evidence.BINDING
        if evidence in _UNSETTLED:
            self.settling_ms = self.settle_ms
            self.unsettled_ms += sample.duration_ms
            return _UNSETTLED[evidence] if self.unsettled_ms >= self.config.probing_timeout_ms else None
        if self.settling_ms > 0.0 and evidence is not Evidence.LIGHT:
            self.settling_ms -= sample.duration_ms
            return None
        return evidence

    def forget_scores(self) -> None:
        """Drop the scores, and with them everything gathered about the present phase."""
        self.board.forget()
        self.begin_phase()

    def begin_phase(self) -> None:
        """Drop what was gathered in the phase now left."""
        self.stability.clear()
        self.load.rebase()
        self.load_changed = False
        self.scores.clear()
        self.fallback = Fallback.NONE
        self.low_scores = 0
        self.trial_home = None
        self.steps_since_trial = 0.0
        self.cycle = 0
        self.light_decisions = 0
        self.candidates = []

    def state_dict(self) -> dict[str, Any]:
        """Everything known, as plain data."""
        state: dict[str, Any] = {name: getattr(self, name) for name in _PLAIN}
        state |= {name: getattr(self, name).state_dict() for name in _PARTS}
        return state | {
            "phase": self.phase.value,
            "fallback": int(self.fallback),
            "scores": list(self.scores),
            "candidates": list(self.candidates),
            "probe": None if self.probe is None else self.probe.state_dict(),
        }

    @classmethod
    def from_state_dict(cls, config: TunerConfig, state: Mapping[str, Any]) -> TunerState:
        """What was known when it was saved.

        Args:
            config: the configuration in force then.
            state: what `state_dict` returned.

        Raises:
            KeyError, TypeError, ValueError: the state is not a tuner's.
        """
        known = cls(config)
        for name in _PLAIN:
            setattr(known, name, state[name])
        known.scores, known.candidates = list(state["scores"]), list(state["candidates"])
        known.phase = Phase(state["phase"])
        known.fallback = Fallback(state["fallback"])
        known.probe = None if state["probe"] is None else Probe(**state["probe"])
        for name in _PARTS:
            getattr(known, name).load_state_dict(state[name])
        return known

    def _within(self, trend: Trend, size: int, limit: float) -> bool:
        need = trend.estimate(size)
        return need is None or need <= limit or not trend.helps_to_shrink(self.config.min_batch_size, limit)
