"""What the windows of one trial say: a value to maximise, and how far constraints are violated. Rates per second.

The first window is left out of the value, because requests of the trial before still run in it, and so are those at
whose end the queue still holds a request from before the trial, up to a number: what a bad setting piled up is not
charged to the next. Some of it always remains in what finishes; more windows a trial leave less of it.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import asdict, dataclass
from typing import Any

from batchpilot.core import WindowMetrics
from batchpilot.tuners.probe.sample import is_odd, measured_nothing, read
from batchpilot.tuners.probe.score import ScoreBoard

OBJECTIVES = ("attained", "goodput", "score")
"""Tokens generated per second times the SLO attainment; tokens per second of requests that finished within their SLO;
the tuner document's score. The first is an estimate of the second that answers to the present limits: tokens count when
they are generated, not when their request ends, and every refusal counts at once."""

_HUGE = 1e15

MOST_VALUE, MOST_VIOLATION = 1e9, 100.0
"""No server is worth more tokens a second, and a constraint violated further is no worse. A sampler that models values
makes nothing of a thing beside which all others are alike, and takes long for it."""

_SHORTEST_MS, _LEAST_MB = 1e-3, 1.0


@dataclass(slots=True)
class Measurement:
    """Sums over the windows of one trial.

    Attributes:
        windows: whole windows heard.
        measured: those of them that enter the value.
        elapsed_ms: duration of all windows.
        weighted_value: value times duration of the measured windows.
        measured_ms: their duration.
        ended: requests that ended in them, refused and failed ones included.
        met_slo: those of them within their SLO.
        failures: steps that failed, in any window.
        memory_fraction: largest mean share of memory in use.
    """

    windows: int = 0
    measured: int = 0
    elapsed_ms: float = 0.0
    weighted_value: float = 0.0
    measured_ms: float = 0.0
    ended: float = 0.0
    met_slo: float = 0.0
    failures: float = 0.0
    memory_fraction: float = 0.0

    def add(self, metrics: WindowMetrics, value: float, most_transient: int) -> bool:
        """Hear a window.

        Args:
            metrics: a window that is not odd, measured at the trial's limits.
            value: what it is worth.
            most_transient: how many windows may be left out at the start, >= 1.

        Returns:
            Whether the window entered the value.
        """
        self.windows += 1
        self.elapsed_ms += metrics.duration_ms
        self.failures += metrics.failures
        self.memory_fraction = max(self.memory_fraction, memory_fraction(metrics))
        inherited = metrics.oldest_wait_ms > self.elapsed_ms and not self.measured
        if self.windows == 1 or (inherited and self.windows <= most_transient):
            return False
        self.measured += 1
        self.weighted_value += value * metrics.duration_ms
        self.measured_ms += metrics.duration_ms
        ended = metrics.completions + metrics.refusals + metrics.failed_requests
        if ended and math.isfinite(metrics.slo_attainment):
            self.ended += ended
            self.met_slo += ended * metrics.slo_attainment
        return True

    @property
    def value(self) -> float:
        """Mean value over time; 0 before anything was measured."""
        return self.weighted_value / self.measured_ms if self.measured_ms > 0 else 0.0

    def constraints(self, min_slo_attainment: float, max_memory_fraction: float) -> dict[str, float]:
        """How far each constraint is violated; at most 0 is kept.

        Args:
            min_slo_attainment: share of the ended requests that must be within their SLO.
            max_memory_fraction: share of the device's memory that may be in use on average.
        """
        attainment = self.met_slo / self.ended if self.ended else 1.0
        return {
            "failures": min(self.failures, MOST_VIOLATION),
            "memory": min(self.memory_fraction - max_memory_fraction, MOST_VIOLATION),
            "slo_attainment": min_slo_attainment - attainment,
        }

    def to_dict(self) -> dict[str, float]:
        """The sums as plain data."""
        return asdict(self)

    @classmethod
    def from_dict(cls, data: Mapping[str, Any]) -> Measurement:
        """Go on from saved sums.

        Args:
            data: what `to_dict` returned.

        Raises:
            TypeError: a field is unknown.
        """
        return cls(**data)


def window_value(metrics: WindowMetrics, objective: str, board: ScoreBoard) -> float:
    """What a window is worth.

    Args:
        metrics: a window that is not odd.
        objective: one of `OBJECTIVES`.
        board: knows the weights of the score.
    """
    if objective == "attained":
        kept = metrics.slo_attainment
        return min(metrics.throughput_tokens_per_s * (kept if math.isfinite(kept) else 1.0), MOST_VALUE)
    if objective == "goodput":
        return min(metrics.goodput_tokens_per_s, MOST_VALUE)
    return 0.0 if measured_nothing(metrics) else board.score(read(metrics))


def memory_fraction(metrics: WindowMetrics) -> float:
    """Mean share of the device's memory in use; that of the KV cache where the device's memory is unknown.

    Args:
        metrics: a window that is not odd.
    """
    if metrics.memory_total_mb < _LEAST_MB:
        return metrics.kv_used_fraction
    return (metrics.memory_used_mb or metrics.memory_peak_mb) / metrics.memory_total_mb


def is_unusable(metrics: WindowMetrics) -> bool:
    """Whether a number that a trial needs is not finite, negative or beyond any server.

    Args:
        metrics: a window as heard.
    """
    try:
        counts_make_sense = (
            0 <= metrics.goodput_tokens_per_s < _HUGE
            and 0 <= metrics.failures < _HUGE
            and 0 <= metrics.completions < _HUGE
            and 0 <= metrics.refusals < _HUGE
            and 0 <= metrics.failed_requests < _HUGE
            and not metrics.slo_attainment < 0
            and not metrics.slo_attainment > 1
        )
    except TypeError:
        return True
    return not counts_make_sense or is_odd(metrics)


def is_idle(metrics: WindowMetrics) -> bool:
    """Whether a window says nothing about its limits: no time passed, or nobody asked for anything.

    A window without a step in which requests waited or were refused says a lot.

    Args:
        metrics: a window that is not odd.
    """
    asked = metrics.arrivals or metrics.queue or metrics.running or metrics.refusals
    return metrics.duration_ms < _SHORTEST_MS or not (metrics.steps or asked)
