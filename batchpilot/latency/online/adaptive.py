"""The latency model that follows its engine: record steps, predict steps, update the parameters. Times in ms."""

from __future__ import annotations

import logging
import threading
from collections.abc import Mapping
from typing import Any

import numpy as np
from numpy.typing import NDArray

from batchpilot.latency.model.saturation import SaturationParameters, step_ms
from batchpilot.latency.online.attempts import Update, attempt
from batchpilot.latency.online.drift import DriftDetector
from batchpilot.latency.online.feasible import check_feasible
from batchpilot.latency.online.history import History, ObservationBuffer
from batchpilot.latency.online.monitor import Health, Monitor
from batchpilot.latency.online.progress import Progress
from batchpilot.latency.online.registry import make_update_rule
from batchpilot.latency.online.relative_loss import signed_errors
from batchpilot.latency.online.rules import UpdateRule
from batchpilot.latency.online.stages import Answers, Published, stage_share
from batchpilot.latency.online.steadiness import Steadiness
from batchpilot.latency.online.triggers import Triggers

_log = logging.getLogger(__name__)

FORGET_SEVERITY = 2.0
"""A change of load moves the errors of a model that misses part of the truth by less; what it taught is still true."""


_SPREAD_STEPS = 50


class AdaptiveLatency:
    """Step latency whose parameters follow what the engine is measured to do.

    The serving threads `record` and `predict`; neither waits for an update. Someone else calls `update`: the owner when
    it suits, or a thread of `BackgroundUpdates`. An update learns from all but the newest observations of the present
    regime, judges its candidate on those, and replaces the parameters by one assignment if it is better; otherwise
    nothing changes but a count.

    Args:
        base: the offline fit, within the feasible set; updates are pulled towards it.
        rule: an update rule or the name of one: "sliding", "exponential" or "momentum".
        stage: where the roll-out stands: "offline", "shadow", "partial" or "full".
        partial_share: of the keys that adapted parameters answer in stage "partial".
        triggers: when updates are due.
        detector: finds changes of the engine; None for the default.
        monitor: keeps errors and rates; None for the default.
        buffer: keeps observations; None for the default.
        forget_severity: a change of the engine that changes the errors by more than this factor makes updates learn
            only from what came after it; a milder one leaves the older observations in use. Infinite: never forget.

    Raises:
        ValueError: an argument is outside its bound, or a name is unknown.

    Source: throughput saturation document, online adaptation.
    """

    def __init__(
        self,
        base: SaturationParameters,
        *,
        rule: UpdateRule | str = "sliding",
        stage: str = "full",
        partial_share: float = 0.1,
        triggers: Triggers | None = None,
        detector: DriftDetector | None = None,
        monitor: Monitor | None = None,
        buffer: ObservationBuffer | None = None,
        forget_severity: float = FORGET_SEVERITY,
    ) -> None:
        check_feasible(base)
        self.triggers = triggers or Triggers()
        self.monitor = monitor or Monitor()
        self.forget_severity = forget_severity
        self._rule = make_update_rule(rule) if isinstance(rule, str) else rule
        self._detector = detector or DriftDetector()
        self._buffer = buffer or ObservationBuffer()
        self._stage, self._partial_share = stage, partial_share
        published = Published.of(base, 0)
        self._answers = Answers(published, published, stage_share(stage, partial_share))
        self._updating = threading.Lock()
        self._progress = Progress()
        self._steadiness = Steadiness()
        self._last: Update | None = None
        self._wake_at = self.triggers.look_every
        self._wake: threading.Event | None = None

    def predict(
        self, batch_size: float, tokens: float, context_tokens: float = 0.0, key: str | int | None = None
    ) -> float:
        """Step latency in ms by one published set of parameters, whatever happens meanwhile.

        About a microsecond, unchecked; for arrays use `parameters.predict`.

        Args:
            batch_size: requests in the step, >= 1.
            tokens: tokens computed in the step, >= 1.
            context_tokens: tokens read by attention, >= 0.
            key: whom it is for; in stage "partial" it decides which parameters answer.
        """
        return float(step_ms(self._answers.for_key(key).values, batch_size, tokens, context_tokens))

    def record(self, batch_size: float, tokens: float, context_tokens: float, duration_ms: float) -> None:
        """Hear how long a step took; under two microseconds, never raises.

        Args:
            batch_size: requests in the step.
            tokens: tokens computed in the step.
            context_tokens: tokens read by attention.
            duration_ms: measured time. What is not finite, negative or absurd is counted and dropped.
        """
        self._buffer.record(batch_size, tokens, context_tokens, duration_ms)
        wake = self._wake
        if wake is not None and self._buffer.count >= self._wake_at:
            wake.set()

    def update(self) -> Update | None:
        """Look at what is new and improve the parameters if that is due; one caller at a time.

        Returns:
            What was attempted; None when there was too little to look at, nothing was due, or the stage is "offline".
        """
        if not self._enough_new():
            return None
        with self._updating:
            if not self._enough_new():  # someone else has looked while this caller waited
                return None
            history = self._buffer.history()
            self._look(history)
            reason = self.triggers.reason(
                available=len(history.since(self._progress.regime_start)),
                since_update=history.end - self._progress.attempted,
                error=self.monitor.recent_error(self.triggers.error_window),
                drifted=bool(self._progress.drifted),
            )
            if reason is None or self._stage == "offline":
                return None
            self._last = self._attempt(history, reason)
            return self._last

    def newest(self, count: int) -> NDArray[np.float64]:
        """The last observations, columns B, S, C and T in ms, shape (n, 4); fewer where there are fewer.

        Args:
            count: how many, >= 0.
        """
        return self._buffer.history(count).rows

    @property
    def parameters(self) -> SaturationParameters:
        """The parameters that answer a prediction without a key; never half-written."""
        return self._answers.for_key(None).parameters

    def parameters_for(self, key: str | int | None) -> SaturationParameters:
        """The parameters that answer a prediction for a key, as `predict` takes it.

        Args:
            key: whom it is for.
        """
        return self._answers.for_key(key).parameters

    @property
    def adapted(self) -> SaturationParameters:
        """The newest validated parameters, whether or not they answer predictions yet."""
        return self._answers.adapted.parameters

    @property
    def base(self) -> SaturationParameters:
        """The offline fit."""
        return self._answers.base.parameters

    @property
    def version(self) -> int:
        """Number of the newest validated parameters, 0 for the base."""
        return self._answers.adapted.version

    @property
    def stage(self) -> str:
        """Where the roll-out stands."""
        return self._stage

    def move_to(self, stage: str, partial_share: float | None = None) -> None:
        """Move the roll-out on, or back.

        Args:
            stage: one of `STAGES`.
            partial_share: of the keys, for stage "partial"; None keeps the present one.

        Raises:
            ValueError: no such stage, or the share is outside 0 to 1; nothing is changed then.
        """
        with self._updating:
            share = self._partial_share if partial_share is None else partial_share
            answered = stage_share(stage, share)
            self._answers = Answers(self._answers.base, self._answers.adapted, answered)
            self._stage, self._partial_share = stage, share

    def health(self) -> Health:
        """Error, drift rate and update failures against their bounds."""
        with self._updating:
            return self.monitor.health()

    def wake(self, event: threading.Event | None) -> None:
        """Set an event whenever there is enough new to look at.

        Args:
            event: to set; None for nobody.
        """
        self._wake = event

    def status(self) -> dict[str, Any]:
        """What is known and what was done, as a flat dictionary of plain values."""
        with self._updating:
            errors, base_errors, health = self.monitor.errors, self.monitor.base_errors, self.monitor.health()
            progress = self._progress
            updates = progress.accepted + progress.worse + progress.failed
            return {
                "stage": self._stage,
                "rule": self._rule.name,
                "version": self._answers.adapted.version,
                "observations": self._buffer.count,
                "dropped": self._buffer.dropped,
                "regime_start": self._progress.regime_start,
                "mean_error": errors.mean,
                "p95_error": errors.p95,
                "p99_error": errors.p99,
                "base_mean_error": base_errors.mean,
                "drift_rate": health.drift_rate,
                "failure_rate": health.failure_rate,
                "degraded": self.monitor.degraded,
                "healthy": health.healthy,
                "complaints": "; ".join(health.complaints),
                "drifts": self._progress.drifts,
                "updates_accepted": self._progress.accepted,
                "updates_worse": self._progress.worse,
                "updates_failed": self._progress.failed,
                "observations_per_update": self._buffer.count / updates if updates else None,
                "parameter_spread": max(self._steadiness.parameters().values(), default=None),
                "prediction_spread": self._steadiness.prediction(self._buffer.history(_SPREAD_STEPS).rows),
                "last_reason": self._last.reason if self._last else "",
                "last_outcome": self._last.outcome if self._last else "",
                **self.adapted.to_dict(),
            }

    def state_dict(self) -> dict[str, Any]:
        """Everything needed to go on elsewhere, observations included, as plain data that JSON can hold."""
        with self._updating:
            return self._state()

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        """Go on from a saved state; triggers, window and bounds stay those of this object.

        Args:
            state: what `state_dict` returned, from an object with the same rule.

        Raises:
            ValueError: the state is of another kind or rule, or a field is missing or wrong; nothing is changed then.
        """
        with self._updating:
            before = self._state()
            try:
                self._load(state)
            except ValueError:
                self._load(before)
                raise

    def _enough_new(self) -> bool:
        return self._buffer.count - self._progress.looked >= self.triggers.look_every

    def _look(self, history: History) -> None:
        """Judge new observations by the parameters in force, and test for a change of the engine."""
        fresh = history.since(self._progress.looked).rows
        answers = self._answers
        adapted, base = (np.expm1(signed_errors(p.values, fresh)) for p in (answers.adapted, answers.base))
        self.monitor.hear_errors(np.abs(adapted), np.abs(base))
        drift = self._detector.check(history, answers.adapted.values)
        self.monitor.hear_drift_test(drift is not None)
        self._progress.looked = history.end
        self._wake_at = history.end + self.triggers.look_every
        if drift is None:
            return
        self._progress.drifts += 1
        self._progress.drifted = 1
        self._rule.reset()
        if drift.severity > self.forget_severity:
            self._progress.regime_start = drift.since
        _log.info("the engine changed at observation %d: %s", drift.since, drift)

    def _attempt(self, history: History, reason: str) -> Update:
        """Propose, judge, and replace the parameters if the candidate is better."""
        progress = self._progress
        progress.attempted = history.end
        held_out = self.triggers.held_out_of(len(history.since(progress.regime_start)))
        update, candidate = attempt(self._rule, self._answers, history, progress.regime_start, held_out, reason)
        if candidate is not None:
            self._answers = self._answers.with_adapted(candidate)
            if progress.drifted:
                self.monitor.rebase()
                self._steadiness.clear()
            self._steadiness.hear(candidate.parameters)
            progress.drifted = 0
        self._rule.hear(candidate is not None)
        progress.count(update.outcome)
        self.monitor.hear_update(failed=update.outcome == "failed")
        return update

    def _state(self) -> dict[str, Any]:
        return {
            "rule": self._rule.name,
            "rule_state": self._rule.state_dict(),
            "base": self.base.to_dict(),
            "adapted": self.adapted.to_dict(),
            "version": self._answers.adapted.version,
            "stage": self._stage,
            "partial_share": self._partial_share,
            "progress": self._progress.to_dict(),
            "buffer": self._buffer.state_dict(),
            "detector": self._detector.state_dict(),
            "monitor": self.monitor.state_dict(),
            "steadiness": self._steadiness.state_dict(),
        }

    def _load(self, state: Mapping[str, Any]) -> None:
        try:
            if state["rule"] != self._rule.name:
                raise ValueError(f"the saved state is of rule {state['rule']!r}; this one follows {self._rule.name!r}")
            base, adapted = (SaturationParameters.from_dict(state[name]) for name in ("base", "adapted"))
            version, share = int(state["version"]), float(state["partial_share"])
            progress, stage = Progress.from_dict(state["progress"]), str(state["stage"])
            answered = stage_share(stage, share)
            parts = [state[name] for name in ("buffer", "detector", "monitor", "rule_state")]
            steadiness = Steadiness()
            steadiness.load_state_dict(state.get("steadiness", ()))
        except (KeyError, TypeError) as error:
            raise ValueError(f"this is no saved adaptive latency: {error!r}") from None
        check_feasible(base)
        check_feasible(adapted)
        self._buffer.load_state_dict(parts[0])
        self._detector.load_state_dict(parts[1])
        self.monitor.load_state_dict(parts[2])
        self._rule.load_state_dict(parts[3])
        self._answers = Answers(Published.of(base, 0), Published.of(adapted, version), answered)
        self._progress, self._stage, self._partial_share = progress, stage, share
        self._steadiness = steadiness
        self._wake_at = progress.looked + self.triggers.look_every
        self._last = None
