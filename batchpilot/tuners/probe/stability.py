"""Stabilisation: whether size and score have held still over the last adjustment cycles.

The document compares (max - min) / mean of the last `stabilization_cycles` sizes and scores with two thresholds. Two
allowances make that reachable: the oscillation's own step, at least 1 each way, is no change of the size (at size 4 it
is 50 %); and scores are compared at the home size only, beyond the range that pure noise has over so few samples.

Source: dynamic batch tuner document, stabilisation (SPEC 1).
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from batchpilot.configs.tuner import TunerConfig
from batchpilot.tuners.probe.adjustment import oscillation_step

NOISE_RANGE = 4.0
"""Ten draws of pure noise span 3.1 standard deviations on average and rarely more than this."""


class StabilityWindow:
    """The last adjustment cycles: size and score, None for a cycle under light load."""

    def __init__(self) -> None:
        self._sizes: list[int] = []
        self._scores: list[float | None] = []

    def add(self, size: int, score: float | None, config: TunerConfig) -> None:
        """Remember one cycle.

        Args:
            size: the size measured.
            score: its score; None when the load did not fill it.
            config: how many cycles to keep.
        """
        self._sizes.append(size)
        self._scores.append(score)
        del self._sizes[: -config.stabilization_cycles], self._scores[: -config.stabilization_cycles]

    def clear(self) -> None:
        """Begin anew."""
        self._sizes.clear()
        self._scores.clear()

    def is_stable(self, home: int, noise: float, config: TunerConfig) -> bool:
        """Whether size and score have held still for `stabilization_cycles`.

        Args:
            home: the size around which the tuner moves.
            noise: relative standard deviation of a score.
            config: cycles and thresholds.
        """
        sizes = self._sizes
        if len(sizes) < config.stabilization_cycles:
            return False
        moved = max(sizes) - min(sizes)
        if moved > 2 * oscillation_step(home, config) and moved >= config.batch_size_change_threshold * _mean(sizes):
            return False
        at_home = [score for size, score in zip(sizes, self._scores, strict=True) if size == home and score is not None]
        if not at_home:
            return all(score is None for score in self._scores)
        allowed = max(config.performance_fluctuation_threshold, NOISE_RANGE * noise)
        return max(at_home) - min(at_home) <= allowed * _mean(at_home)

    def state_dict(self) -> dict[str, Any]:
        """The cycles as plain data."""
        return {"sizes": list(self._sizes), "scores": list(self._scores)}

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        """Go on from saved cycles.

        Args:
            state: what `state_dict` returned.

        Raises:
            KeyError: a field is missing.
        """
        self._sizes, self._scores = list(state["sizes"]), list(state["scores"])


def _mean(values: list[int] | list[float]) -> float:
    return sum(values) / len(values)
