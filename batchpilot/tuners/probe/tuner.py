"""The probe tuner: finds the batch size by probing, then keeps adjusting it (dynamic) or locks it (hybrid).

It is driven by completed windows, one decision a `tell`. Engine time and steps come from the metrics: nothing sleeps,
nothing reads a clock. How a window is heard, in order:

1. a window measured at another batch size than the present one is counted and ignored;
2. an odd one (a number not finite, negative or absurd) is counted and the limits hold; so is one that starts before the
   last one ended, after which time goes on from there, because a restarted engine starts at zero again;
3. one with a failed step goes to the failure rules;
4. one that measured nothing (no step, no token) holds the limits;
5. any other is scored; a decision follows once `windows_per_decision` windows and `adjustment_interval_ms` have passed,
   after a move of more than a tenth, `settle_ms` of measured time have let the batch settle, and the windows hold the
   load's usual mix of prompt and output tokens (see `mix`) or `probing_timeout_ms` of it.

The rules are in `searching` and `running`, the words in `phases`, the arithmetic in the other modules of this package.

Source: dynamic batch tuner document (SPEC 1).
"""

from __future__ import annotations

import logging
import threading
from collections.abc import Mapping
from typing import TYPE_CHECKING, Any

from batchpilot.configs.tuner import TunerConfig
from batchpilot.core import Limits, Tuner, WindowMetrics
from batchpilot.tuners.probe import controller
from batchpilot.tuners.probe.phases import Phase
from batchpilot.tuners.probe.sample import Evidence, Sample, combine, is_odd, measured_nothing, read
from batchpilot.tuners.probe.state import TunerState

if TYPE_CHECKING:
    from batchpilot.engines.memory import MemoryModel

log = logging.getLogger(__name__)

_CLOCK_SLACK_MS = 1e-3
_COUNTERS = ("windows_heard", "windows_held", "windows_ignored", "windows_odd", "windows_failed")


class NotObeyedError(ValueError):
    """An order to move the size of a tuner that is disabled or static; nothing was changed."""


class ProbeTuner(Tuner):
    """Moves the batch size; the other limits stay at their base.

    While `enabled` is false or the strategy is static nothing moves the size: no failure, no trigger, no order.

    Args:
        config: the `dynamic_batch_tuner` section; its `strategy` is dynamic, hybrid, or static for a tuner that only
            watches; None for the defaults.
        base: the limits whose other fields are kept; None for none.
        windows_per_decision: windows averaged for one decision, >= 1; more averages noise and slows reactions.
        settle_ms: measured time that is left unjudged after a move of more than a tenth, >= 0; 0 judges every window.
        memory: where the device's memory goes, from the model: tells what one more request needs before windows at two
            batch sizes have; None waits for these.

    Attributes:
        name: the strategy.

    Raises:
        ValueError: `windows_per_decision` is below 1, or `settle_ms` below 0.
    """

    quick = True

    def __init__(
        self,
        config: TunerConfig | None = None,
        *,
        base: Limits | None = None,
        windows_per_decision: int = 1,
        settle_ms: float = 1000.0,
        memory: MemoryModel | None = None,
    ) -> None:
        if windows_per_decision < 1:
            raise ValueError(f"windows_per_decision is {windows_per_decision}; it must be >= 1")
        if not 0.0 <= settle_ms < float("inf"):
            raise ValueError(f"settle_ms is {settle_ms}; it must be >= 0 and finite")
        self._config = config or TunerConfig()
        self._settle_ms = settle_ms
        self._windows_per_decision = windows_per_decision
        self._memory = memory
        self._lock = threading.Lock()
        self._base = base or Limits(batch_size=self._config.initial_batch_size)
        self._checked: dict[int, Limits] = {}
        self._counts = dict.fromkeys(_COUNTERS, 0)
        self._pending: list[Sample] = []
        self._last: Sample | None = None
        self._start()

    @property
    def config(self) -> TunerConfig:
        """The configuration in force."""
        return self._config

    def ask(self) -> Limits:
        """The base limits with the present batch size."""
        return self._limits

    def tell(self, metrics: WindowMetrics) -> None:
        """Hear one completed window; see the module for how.

        Args:
            metrics: the window's measurements and the limits under which they were taken.
        """
        with self._lock:
            self._counts["windows_heard"] += 1
            if metrics.limits.batch_size != self._state.size:
                self._counts["windows_ignored"] += 1
                return
            if _has_failures(metrics):
                self._counts["windows_failed"] += 1
                self._pending.clear()
                controller.fail(self._state)
                self._publish()
                return
            if is_odd(metrics) or self._goes_backwards(metrics):
                self._counts["windows_odd"] += 1
                return
            if metrics.duration_ms > 0:
                controller.note_load(self._state, metrics.arrivals, metrics.duration_ms)
            if measured_nothing(metrics):
                self._counts["windows_held"] += 1
                return
            self._state.mix.observe(metrics.prefill_tokens, metrics.generated_tokens)
            self._pending.append(read(metrics))
            if self._is_time_to_decide():
                self._assume_memory(metrics)
                sample = combine(self._pending)
                self._last = sample
                self._pending.clear()
                controller.decide(self._state, sample)
                self._publish()
                self._report(sample.end_ms)

    def reset(self, seed: int | None = None) -> None:
        """Forget everything learned and start at the initial size.

        Args:
            seed: unused; the tuner draws no random numbers.
        """
        with self._lock:
            size = self._state.size
            self._start()
            if controller.is_static(self._config):
                self._state.move(size, f"holding {size}: {controller.why_static(self._config)}")
                self._publish()

    def reset_to_safe_state(self) -> None:
        """Forget everything learned and go to the minimum size, from which the probe begins once a window was healthy.

        Raises:
            NotObeyedError: the tuner is disabled or static.
        """
        with self._lock:
            self._check_movable("a reset to the safe state")
            self._start()
            self._state.enter_safe_state("it was reset by hand")
            self._publish()

    def trigger_probe(self) -> None:
        """Probe again from the initial size; the way to make the hybrid strategy look again.

        Raises:
            NotObeyedError: the tuner is disabled or static.
        """
        with self._lock:
            self._check_movable("a probe")
            self._pending.clear()
            controller.order_probe(self._state)
            self._publish()

    def set_batch_size(self, batch_size: int) -> None:
        """Run with a size of one's own choice: hybrid locks it, dynamic goes on adjusting from it.

        Args:
            batch_size: within `min_batch_size` and `max_batch_size`.

        Raises:
            ValueError: it is not a whole number within the bounds, or (`NotObeyedError`) the tuner is disabled or
                static; nothing is changed then.
        """
        with self._lock:
            self._check_movable(f"batch size {batch_size!r}")
            low, high = self._config.min_batch_size, self._config.max_batch_size
            if isinstance(batch_size, bool) or not isinstance(batch_size, int) or not low <= batch_size <= high:
                raise ValueError(f"batch_size is {batch_size!r}; it must be a whole number from {low} to {high}")
            self._pending.clear()
            controller.order_size(self._state, batch_size)
            self._publish()

    def update_config(self, changes: Mapping[str, Any]) -> TunerConfig:
        """Change the configuration while running.

        Args:
            changes: any subset of the `dynamic_batch_tuner` section.

        Returns:
            The configuration now in force.

        Raises:
            ConfigError: the result would not be valid; nothing is changed then.
        """
        with self._lock:
            self._config = self._config.updated(changes)
            self._pending.clear()
            controller.order_config(self._state, self._config)
            self._publish()
            return self._config

    def status(self) -> dict[str, Any]:
        """What the tuner is doing and why: the keys of the run-time API that a tuner knows, reason and counters."""
        with self._lock:
            state, last = self._state, self._last
            utilisation = last.utilisation if last else 0.0
            return {
                "enabled": self._config.enabled,
                "strategy": self._config.strategy,
                "phase": state.phase.value,
                "current_batch_size": state.size,
                "best_batch_size": state.board.best_size,
                "best_score": state.board.best_score,
                "is_stabilized": state.phase is Phase.STABLE_RUNNING,
                "consecutive_failures": state.consecutive_failures,
                "throughput": last.throughput_tokens_per_s if last else 0.0,
                "gpu_utilization": utilisation,
                "is_utilization_on_target": utilisation >= self._config.target_gpu_utilization,
                "memory_utilization": last.memory_fraction if last else 0.0,
                "processing_time_ms": last.step_ms if last else 0.0,
                "reason": state.reason,
                **self._counts,
            }

    def state_dict(self) -> dict[str, Any]:
        """Everything needed to go on elsewhere, configuration included, as plain data."""
        with self._lock:
            return {
                "tuner": "probe",
                "config": self._config.to_dict(),
                "base": self._base.to_dict(),
                "windows_per_decision": self._windows_per_decision,
                "clock_ms": self._clock_ms,
                "next_report_ms": self._next_report_ms,
                "counts": dict(self._counts),
                "pending": [_packed(sample) for sample in self._pending],
                "last": _packed(self._last) if self._last else None,
                "state": self._state.state_dict(),
            }

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        """Go on exactly where another probe tuner was, under its configuration.

        Args:
            state: what `state_dict` returned.

        Raises:
            ValueError: the state is another tuner's, or a field is missing; nothing is changed then.
        """
        if state.get("tuner") != "probe":
            raise ValueError(f"this is the state of {state.get('tuner')!r}, not of a probe tuner")
        try:
            config = TunerConfig.from_dict(state["config"], warn=False)
            known = TunerState.from_state_dict(config, state["state"])
            base = Limits.from_dict(state["base"])
            pending = [_unpacked(sample) for sample in state["pending"]]
            last = _unpacked(state["last"]) if state["last"] else None
            counts = {name: int(state["counts"][name]) for name in _COUNTERS}
            windows_per_decision = state["windows_per_decision"]
            clock_ms, next_report_ms = float(state["clock_ms"]), float(state["next_report_ms"])
        except (KeyError, TypeError) as error:
            raise ValueError(f"the state of the probe tuner is incomplete: {error!r}") from error
        with self._lock:
            self._config, self._base, self._state = config, base, known
            self._windows_per_decision = windows_per_decision
            self._settle_ms = known.settle_ms
            self._pending, self._last, self._counts = pending, last, counts
            self._clock_ms, self._next_report_ms = clock_ms, next_report_ms
            self._checked = {}
            self._limits = self._limits_at(known.size)
            self.name = config.strategy

    def _start(self) -> None:
        self.name = self._config.strategy
        self._state = TunerState(self._config, self._settle_ms)
        self._pending = []
        self._last = None
        self._clock_ms = 0.0
        self._next_report_ms = 0.0
        self._counts = dict.fromkeys(_COUNTERS, 0)
        if controller.is_static(self._config) and self._config.fixed_batch_size:
            self._state.move(self._config.fixed_batch_size, "static at the fixed size")
        self._limits = self._limits_at(self._state.size)

    def _check_movable(self, order: str) -> None:
        if controller.is_static(self._config):
            raise NotObeyedError(
                f"{order} was ordered and not obeyed: {controller.why_static(self._config)}, the batch size stays at "
                f"{self._state.size}; set {'enabled true' if not self._config.enabled else 'another strategy'} first"
            )

    def _assume_memory(self, metrics: WindowMetrics) -> None:
        """What a request like those of now needs, where the model says and no windows have said yet."""
        if self._memory is not None and not self._state.memory.knows_slope and metrics.batch_size_mean > 0:
            held, computed = metrics.context_tokens_mean, metrics.tokens_per_step_mean
            batch = metrics.batch_size_mean
            self._state.memory.assume(self._memory.request_mb(held / batch, computed / batch))

    def _publish(self) -> None:
        self.name = self._config.strategy
        if self._limits.batch_size != self._state.size:
            self._limits = self._limits_at(self._state.size)
        if self._config.enable_debug_logging:
            log.debug("%s: %s", self._state.phase.value, self._state.reason)

    def _limits_at(self, size: int) -> Limits:
        """The base limits at a size, checked when one is first met: a tuner comes back to the same few."""
        limits = self._checked.get(size)
        if limits is None:
            limits = self._checked[size] = self._base.replace(batch_size=size)
        return limits

    def _goes_backwards(self, metrics: WindowMetrics) -> bool:
        ended, self._clock_ms = self._clock_ms, metrics.start_ms + metrics.duration_ms
        return metrics.start_ms < ended - _CLOCK_SLACK_MS

    def _is_time_to_decide(self) -> bool:
        pending, config = self._pending, self._config
        if len(pending) < self._windows_per_decision:
            return False
        heard_ms = prefill_tokens = generated_tokens = 0.0
        for sample in pending:
            heard_ms += sample.duration_ms
            prefill_tokens += sample.prefill_tokens
            generated_tokens += sample.generated_tokens
        if heard_ms < config.adjustment_interval_ms:
            return False
        if heard_ms >= config.probing_timeout_ms or self._state.is_settling or self._state.awaits_load_change:
            return True
        return self._state.mix.is_represented(prefill_tokens, generated_tokens)

    def _report(self, now_ms: float) -> None:
        if now_ms >= self._next_report_ms or now_ms < self._next_report_ms - 2000.0 * self._config.report_interval_sec:
            self._next_report_ms = now_ms + 1000.0 * self._config.report_interval_sec
            log.info("%s, batch size %d: %s", self._state.phase.value, self._state.size, self._state.reason)


def _has_failures(metrics: WindowMetrics) -> bool:
    """Whether a step failed; a count that is not a number is no failure."""
    try:
        return 0 < metrics.failures < float("inf")
    except TypeError:
        return False


def _packed(sample: Sample) -> list[Any]:
    return [sample.evidence.name, *sample[1:]]


def _unpacked(values: list[Any]) -> Sample:
    return Sample(Evidence[values[0]], *values[1:])
