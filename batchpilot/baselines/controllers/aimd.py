"""AIMD: a batch size that creeps up while latency is low and backs off when it is high. Times in ms.

Two rules. The batching document's (SPEC 2): mean latency of the last 100 samples below 0.8 of the target -> +1, above
the target -> -1. Clipper's (Crankshaw et al., NSDI 2017, section 4.3.1): +1 while the last batch met the objective,
x0.9 when it did not.

A sample is a step, the batch latency of both sources. Windows tell a mean over their steps, so the last 100 samples are
the fewest last windows that hold 100 steps, their means weighted by their steps. One decision a window: the sources
decide once a batch, but a batch cannot be told apart within a window. Clipper's rule forgets its samples on backing
off, because they were taken at the larger size.
"""

from __future__ import annotations

import threading
from collections.abc import Mapping
from typing import Any

from batchpilot.core import SLO, Limits, Tuner, WindowMetrics
from batchpilot.core.slo import can_be_aimed_at

SAMPLES = 100
LOW = 0.8
CLIPPER_BACKOFF = 0.9
_HUGE = 1e15


class AIMDTuner(Tuner):
    """Additive increase; additive (the document's) or multiplicative (Clipper's) decrease.

    Args:
        base: the limits to start from, other fields kept; None starts at 8 requests.
        target_ms: the step time aimed at; None takes the SLO's TPOT target, and without an SLO that of the windows.
        slo: the promise; None as above.
        min_batch_size: lower bound, >= 1.
        max_batch_size: upper bound.
        multiplicative: whether to follow Clipper's rule.

    Raises:
        ValueError: the bounds are in disorder, or the target is not above 0.
    """

    quick = True

    def __init__(
        self,
        base: Limits | None = None,
        *,
        target_ms: float | None = None,
        slo: SLO | None = None,
        min_batch_size: int = 1,
        max_batch_size: int = 256,
        multiplicative: bool = False,
    ) -> None:
        if not 1 <= min_batch_size <= max_batch_size:
            raise ValueError(f"AIMD needs 1 <= min_batch_size {min_batch_size} <= max_batch_size {max_batch_size}")
        if target_ms is not None and not target_ms > 0:
            raise ValueError(f"target_ms is {target_ms}; it must be above 0")
        self.name = "aimd-clipper" if multiplicative else "aimd"
        self._start = base or Limits(batch_size=8)
        self._target_ms = target_ms if target_ms is not None else (slo.tpot_ms if slo else None)
        self._low, self._high = min_batch_size, max_batch_size
        self._multiplicative = multiplicative
        self._lock = threading.Lock()
        self.reset()

    def ask(self) -> Limits:
        """The start limits with the present batch size."""
        return self._limits

    def tell(self, metrics: WindowMetrics) -> None:
        """Hear one window and step up or down; a window without a step time holds.

        Args:
            metrics: the window; one measured at another batch size is ignored.
        """
        with self._lock:
            self._windows_heard += 1
            if metrics.limits.batch_size != self._limits.batch_size:
                return
            target = metrics.tpot_target_ms if self._target_ms is None else self._target_ms
            step_ms, steps = metrics.step_ms_mean, metrics.steps
            if not (0 < steps < _HUGE and 0 <= step_ms < _HUGE and can_be_aimed_at(target)):
                return
            self._samples.append((step_ms, steps))
            self._trim()
            mean = self._mean_ms()
            size = self._limits.batch_size
            if mean > target:
                self._back_off(size, mean, target)
            elif self._multiplicative or mean < LOW * target:
                self._move(size + 1, f"+1: {mean:.1f} ms is under the target of {target:.1f} ms")

    def reset(self, seed: int | None = None) -> None:
        """Start again from the base limits.

        Args:
            seed: unused; AIMD draws no random numbers.
        """
        self._samples: list[tuple[float, float]] = []
        self._windows_heard = 0
        self._reason = "no step heard yet"
        self._limits = self._start
        self._move(self._start.batch_size, self._reason)

    def status(self) -> dict[str, Any]:
        """Size, mean step time, and the reason of the last move."""
        with self._lock:
            return {
                "phase": "AIMD",
                "current_batch_size": self._limits.batch_size,
                "processing_time_ms": self._mean_ms() if self._samples else 0.0,
                "reason": self._reason,
                "windows_heard": self._windows_heard,
            }

    def state_dict(self) -> dict[str, Any]:
        """Samples, limits and rule as plain data."""
        with self._lock:
            return {
                "tuner": self.name,
                "start": self._start.to_dict(),
                "limits": self._limits.to_dict(),
                "target_ms": self._target_ms,
                "bounds": [self._low, self._high],
                "samples": [list(sample) for sample in self._samples],
                "windows_heard": self._windows_heard,
                "reason": self._reason,
            }

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        """Go on from a saved state.

        Args:
            state: what `state_dict` returned.

        Raises:
            ValueError: the state is another tuner's, or a field is missing; nothing is changed then.
        """
        if state.get("tuner") != self.name:
            raise ValueError(f"this is the state of {state.get('tuner')!r}, not of {self.name!r}")
        try:
            start, limits = Limits.from_dict(state["start"]), Limits.from_dict(state["limits"])
            low, high = state["bounds"]
            samples = [(float(step_ms), float(steps)) for step_ms, steps in state["samples"]]
            target_ms, heard, reason = state["target_ms"], int(state["windows_heard"]), str(state["reason"])
        except (KeyError, TypeError) as error:
            raise ValueError(f"the state of {self.name!r} is incomplete: {error!r}") from error
        with self._lock:
            self._start, self._limits, self._low, self._high = start, limits, low, high
            self._samples, self._target_ms, self._windows_heard, self._reason = samples, target_ms, heard, reason

    def _back_off(self, size: int, mean: float, target: float) -> None:
        if self._multiplicative:
            self._samples.clear()
            smaller = min(size - 1, int(CLIPPER_BACKOFF * size))
        else:
            smaller = size - 1
        self._move(smaller, f"{smaller - size:+d}: {mean:.1f} ms is over the target of {target:.1f} ms")

    def _move(self, size: int, reason: str) -> None:
        size = max(self._low, min(size, self._high))
        if size != self._limits.batch_size:
            self._limits = self._limits.replace(batch_size=size)
        self._reason = reason

    def _trim(self) -> None:
        """Keep the fewest last windows that hold enough steps: 100, or one for Clipper's rule."""
        needed = 1 if self._multiplicative else SAMPLES
        kept, steps = 0, 0.0
        while kept < len(self._samples) and steps < needed:
            kept += 1
            steps += self._samples[-kept][1]
        del self._samples[:-kept]

    def _mean_ms(self) -> float:
        steps = sum(count for _, count in self._samples)
        return sum(step_ms * count for step_ms, count in self._samples) / steps
