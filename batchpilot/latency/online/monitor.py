"""How well predictions and updates do: errors, drift rate, failures, a degradation alarm, one health check."""

from __future__ import annotations

from collections import deque
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from batchpilot.latency.online.two_samples import mann_whitney_p, spent_level

Array = NDArray[np.float64]

HEALTHY_ERROR, HEALTHY_DRIFT_RATE, HEALTHY_FAILURE_RATE = 0.15, 0.1, 0.05
"""Health is below all three. Source: throughput saturation document, monitor."""

_RECENT = 1000
_DEGRADED_RECENT = 200
_REMEMBERED = 100


@dataclass(frozen=True, slots=True)
class ErrorSummary:
    """Relative errors |predicted - measured| / measured of the newest observations; NaN without any.

    Attributes:
        mean: their mean.
        p95: 95th percentile.
        p99: 99th percentile.
    """

    mean: float
    p95: float
    p99: float

    @classmethod
    def of(cls, errors: Array) -> ErrorSummary:
        """The summary of some errors.

        Args:
            errors: relative errors, shape (n,).
        """
        if not len(errors):
            return cls(np.nan, np.nan, np.nan)
        p95, p99 = np.percentile(errors, (95.0, 99.0))
        return cls(float(errors.mean()), float(p95), float(p99))


@dataclass(frozen=True, slots=True)
class Health:
    """Whether adaptation may be trusted, and why not.

    Attributes:
        error: mean relative error of the adapted parameters.
        drift_rate: share of the last drift tests that gave an alarm.
        failure_rate: share of the last updates that yielded no usable candidate; a candidate that was merely no better
            is no failure.
        complaints: what is too high; empty when healthy.
    """

    error: float
    drift_rate: float
    failure_rate: float
    complaints: tuple[str, ...]

    @property
    def healthy(self) -> bool:
        """Whether nothing is too high."""
        return not self.complaints


class Monitor:
    """Errors as they were met: each observation is judged by the parameters in force when it is heard, before learning.

    The degradation alarm compares the newest 200 errors with the first 1000 of this regime by a one-sided Mann-Whitney
    test. Like the drift tests it repeats, and spends its level in the same way.

    Args:
        level: chance of any false degradation alarm in an endless stationary stream, above 0 and below 1.

    Attributes:
        degraded: whether the last test found errors grown.

    Raises:
        ValueError: the level is outside its bound.

    Source: throughput saturation document, monitor (Mann-Whitney at 0.05).
    """

    def __init__(self, level: float = 0.05) -> None:
        if not 0.0 < level < 1.0:
            raise ValueError(f"level is {level}; it must be above 0 and below 1")
        self.level = level
        self.degraded = False
        self._adapted = self._base = np.empty(0)
        self._baseline = np.empty(0)
        self._after_baseline = self._tests = 0
        self._drift_tests: deque[bool] = deque(maxlen=_REMEMBERED)
        self._failures: deque[bool] = deque(maxlen=_REMEMBERED)

    def hear_errors(self, adapted: Array, base: Array) -> None:
        """Take in the errors of new observations and test for degradation.

        Args:
            adapted: relative errors of the adapted parameters, in order of time.
            base: those of the base parameters for the same observations.
        """
        self._adapted = np.concatenate((self._adapted, adapted))[-_RECENT:]
        self._base = np.concatenate((self._base, base))[-_RECENT:]
        if len(self._baseline) < _RECENT:
            self._baseline = np.concatenate((self._baseline, adapted))[:_RECENT]
            self._after_baseline = 0
            return
        self._after_baseline += len(adapted)
        if self._after_baseline >= _DEGRADED_RECENT:
            self._tests += 1
            p = mann_whitney_p(self._baseline, self._adapted[-_DEGRADED_RECENT:])
            self.degraded = p < spent_level(self.level, self._tests)

    def hear_drift_test(self, alarmed: bool) -> None:
        """Count a drift test.

        Args:
            alarmed: whether it found a change.
        """
        self._drift_tests.append(alarmed)

    def hear_update(self, failed: bool) -> None:
        """Count an update.

        Args:
            failed: whether it yielded no usable candidate.
        """
        self._failures.append(failed)

    def rebase(self) -> None:
        """A new regime has begun: the errors to come are what degradation is measured against."""
        self._baseline = np.empty(0)
        self._tests = 0
        self.degraded = False

    def recent_error(self, count: int, *, of_base: bool = False) -> float:
        """Mean relative error of the adapted parameters over the newest observations; NaN without any.

        Args:
            count: how many.
            of_base: of the base parameters instead.
        """
        newest = (self._base if of_base else self._adapted)[-count:]
        return float(newest.mean()) if len(newest) else np.nan

    @property
    def errors(self) -> ErrorSummary:
        """Of the adapted parameters, over the newest 1000 observations."""
        return ErrorSummary.of(self._adapted)

    @property
    def base_errors(self) -> ErrorSummary:
        """Of the base parameters, over the same observations."""
        return ErrorSummary.of(self._base)

    def health(self) -> Health:
        """Error, drift rate and failure rate against their bounds."""
        error, drift_rate, failure_rate = self.errors.mean, _rate(self._drift_tests), _rate(self._failures)
        rates = {
            "error": (error, HEALTHY_ERROR),
            "drift rate": (drift_rate, HEALTHY_DRIFT_RATE),
            "update failures": (failure_rate, HEALTHY_FAILURE_RATE),
        }
        complaints = tuple(
            f"{name} {value:.3f} is not below {bound}" for name, (value, bound) in rates.items() if value >= bound
        )
        return Health(error, drift_rate, failure_rate, complaints)

    def state_dict(self) -> dict[str, Any]:
        """Everything heard that still counts, as plain data."""
        return {
            "adapted": self._adapted.tolist(),
            "base": self._base.tolist(),
            "baseline": self._baseline.tolist(),
            "after_baseline": self._after_baseline,
            "tests": self._tests,
            "degraded": self.degraded,
            "drift_tests": list(self._drift_tests),
            "failures": list(self._failures),
        }

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        """Go on from a saved state.

        Args:
            state: what `state_dict` returned.

        Raises:
            ValueError: the state is no monitor's; nothing is changed then.
        """
        try:
            arrays = [np.asarray(state[name], dtype=np.float64).reshape(-1) for name in ("adapted", "base", "baseline")]
            after, tests, degraded = int(state["after_baseline"]), int(state["tests"]), bool(state["degraded"])
            alarms, failures = list(map(bool, state["drift_tests"])), list(map(bool, state["failures"]))
        except (KeyError, TypeError, ValueError) as error:
            raise ValueError(f"this is no saved monitor: {error!r}") from None
        self._adapted, self._base, self._baseline = arrays
        self._after_baseline, self._tests, self.degraded = after, tests, degraded
        self._drift_tests = deque(alarms, maxlen=_REMEMBERED)
        self._failures = deque(failures, maxlen=_REMEMBERED)


def _rate(events: deque[bool]) -> float:
    return sum(events) / len(events) if events else 0.0
