"""Safety rules: what a size would need, what is acceptable, and how far to step back. Memory in MB, times in ms.

Source: dynamic batch tuner document, safety (SPEC 1).
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from enum import IntEnum
from typing import Any

from batchpilot.configs.tuner import TunerConfig
from batchpilot.tuners.probe.sample import Sample

MIN_UTILISATION = 0.1
LATE_DIP = 0.8
LATE_RISE = 1.2
RECOVERY_SLOPE = 0.01
RECOVERY_SCORES = 5
_DEFAULT_SENSITIVITY = 0.5


class Fallback(IntEnum):
    """How far to step back, by the drop of the score against the best."""

    NONE = 0
    MINOR = 1
    MODERATE = 2
    MAJOR = 3
    SAFE = 4


_LEAST_DROPS = ((0.5, Fallback.MAJOR), (0.3, Fallback.MODERATE), (0.1, Fallback.MINOR))
_SAFE_ABOVE = 0.8
_FACTORS = {Fallback.NONE: 1.0, Fallback.MINOR: 0.9, Fallback.MODERATE: 0.7, Fallback.MAJOR: 0.5, Fallback.SAFE: 0.0}


def fallback_for(drop: float, strongest: str) -> Fallback:
    """The fallback level of a score drop: < 10 % none, 10-30 % minor, 30-50 % moderate, 50-80 % major, > 80 % safe.

    Args:
        drop: 1 - score / best score.
        strongest: the configured `fallback_level`, a cap.
    """
    if drop > _SAFE_ABOVE:
        level = Fallback.SAFE
    else:
        level = next((level for least, level in _LEAST_DROPS if drop >= least), Fallback.NONE)
    return min(level, Fallback[strongest.upper()])


def fallback_size(level: Fallback, size: int, best_size: int, lowest: int) -> int:
    """The size that a fallback level steps back to.

    Args:
        level: minor x0.9, moderate x0.7 and at most the best, major x0.5, safe the minimum.
        size: the present size.
        best_size: the best size known.
        lowest: the minimum.
    """
    smaller = int(size * _FACTORS[level])
    if level is Fallback.MODERATE:
        smaller = min(smaller, best_size)
    return max(lowest, smaller)


def unacceptable(sample: Sample, config: TunerConfig) -> str | None:
    """Why a measurement is not acceptable, None if it is.

    Args:
        sample: a measurement under load; light load explains low throughput and utilisation, so it is not judged here.
        config: the thresholds; the least utilisation is 0.1.
    """
    if sample.throughput_tokens_per_s < config.min_acceptable_throughput:
        return f"throughput is {sample.throughput_tokens_per_s:.1f} tokens/s < {config.min_acceptable_throughput:g}"
    if is_too_slow(sample, config):
        return f"a step takes {sample.step_ms:.0f} ms > {config.max_acceptable_latency_ms:g}"
    if sample.utilisation < MIN_UTILISATION:
        return f"utilisation is {sample.utilisation:.2f} < {MIN_UTILISATION:g}"
    return None


def is_too_slow(sample: Sample, config: TunerConfig) -> bool:
    """Whether a step takes longer than is acceptable, which a smaller size may mend.

    Args:
        sample: a measurement.
        config: the threshold.
    """
    return sample.step_ms > config.max_acceptable_latency_ms


def is_v_shaped(scores: Sequence[float]) -> bool:
    """Whether the last three scores dip below 0.8 and then rise by 1.2: a hiccup that is already over.

    Args:
        scores: scores in order; fewer than three are no shape.
    """
    if len(scores) < 3:
        return False
    before, dip, after = scores[-3:]
    return dip < LATE_DIP * before and after > LATE_RISE * dip


def is_recovering(scores: Sequence[float], sensitivity: float) -> bool:
    """Whether the last five scores rise by more than 0.01 a decision.

    Args:
        scores: scores in order.
        sensitivity: the configured `recovery_sensitivity`; 0.5 is the document's rule, 1 answers to half that slope.
    """
    if len(scores) < RECOVERY_SCORES:
        return False
    middle = (RECOVERY_SCORES - 1) / 2
    offsets = [index - middle for index in range(RECOVERY_SCORES)]
    covariance = sum(offset * score for offset, score in zip(offsets, scores[-RECOVERY_SCORES:], strict=True))
    slope = covariance / sum(offset * offset for offset in offsets)
    return slope > RECOVERY_SLOPE * _DEFAULT_SENSITIVITY / sensitivity


class Trend:
    """How a quantity grows with the batch: a least-squares line that forgets, learned from windows.

    While the batch stays the same only the level is followed, and the last slope is kept.

    Args:
        forgetting: weight that an earlier window keeps with each new one, 0-1.
    """

    LEAST_SPREAD = 0.05

    def __init__(self, forgetting: float = 0.9) -> None:
        self._forgetting = forgetting
        self._slope: float | None = None
        self._sums = (0.0, 0.0, 0.0, 0.0, 0.0)

    @property
    def level(self) -> float:
        """Weighted mean of the last windows' values, 0 before any."""
        return self._sums[2] / self._sums[0] if self._sums[0] > 0.0 else 0.0

    def observe(self, batch: float, value: float, weight: float = 1.0) -> None:
        """Hear one window.

        Args:
            batch: mean requests per step.
            value: the quantity.
            weight: how much the window counts, > 0: 1, or its steps where the value is a mean over steps.
        """
        keep = self._forgetting
        n, x, y, xx, xy = self._sums
        self._sums = (
            keep * n + weight,
            keep * x + weight * batch,
            keep * y + weight * value,
            keep * xx + weight * batch * batch,
            keep * xy + weight * batch * value,
        )

    @property
    def knows_slope(self) -> bool:
        """Whether two batches, or an assumption, have told how it grows."""
        return self._slope is not None

    def assume(self, slope: float) -> None:
        """Believe in a slope until windows at two batches tell another.

        Args:
            slope: growth per request, >= 0.
        """
        if self._slope is None:
            self._slope = slope

    def estimate(self, batch: float) -> float | None:
        """The quantity at another batch; None while nothing, or only one batch, is known.

        Args:
            batch: requests per step.
        """
        weight, x, y, xx, xy = self._sums
        if weight == 0.0:
            return None
        mean_x, mean_y = x / weight, y / weight
        variance = xx / weight - mean_x * mean_x
        if variance > (self.LEAST_SPREAD * mean_x) ** 2:
            self._slope = max(0.0, (xy / weight - mean_x * mean_y) / variance)
        slope = self._slope
        if slope is None:
            return None
        return mean_y + slope * (batch - mean_x)

    def helps_to_shrink(self, lowest: float, limit: float) -> bool:
        """Whether a smaller batch could bring the quantity under a limit, as far as is known.

        Args:
            lowest: the smallest batch.
            limit: what the quantity must not exceed.
        """
        least = self.estimate(lowest)
        return least is None or least <= limit

    def state_dict(self) -> dict[str, Any]:
        """The line's sums as plain data."""
        return {"slope": self._slope, "sums": list(self._sums)}

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        """Go on from saved sums.

        Args:
            state: what `state_dict` returned.

        Raises:
            KeyError: a field is missing.
        """
        weight, x, y, xx, xy = state["sums"]
        self._slope, self._sums = state["slope"], (weight, x, y, xx, xy)


def allowed_mb(total_mb: float, config: TunerConfig) -> float:
    """Memory that may be used: (total - margin) * limit.

    Args:
        total_mb: the device's memory.
        config: the margin and the limit.
    """
    return max(0.0, total_mb - config.memory_safety_margin_mb) * config.memory_usage_limit
