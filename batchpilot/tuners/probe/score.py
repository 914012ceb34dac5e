"""The score of a batch size, and the board that remembers it by size. Scores are shares in [0, 1].

    score = a * throughput + b * utilisation + g * (1 - memory_waste),    memory_waste = (peak - used) / peak

Throughput enters as busy throughput (generated tokens per second of step time) over the engine's estimated peak for
that window's work, in [0, 1]. Where the peak is unknown the throughput itself is kept, and the largest seen so far
counts as 1; the same holds where the engine has exceeded its estimate, because a clipped score could not tell the sizes
beyond a low estimate apart. The board keeps throughput apart from the rest of the score, so that earlier scores stay
comparable when that reference rises; a peak that becomes known, or unknown, is another unit and forgets them.

Source: dynamic batch tuner document, score (SPEC 1); the normalisation is ours.
"""

from __future__ import annotations

import math
from collections.abc import Iterable, Mapping
from typing import Any

from batchpilot.configs.tuner import TunerConfig
from batchpilot.tuners.probe.sample import Sample

MEMORY = 4
"""A size's mean follows its last few measurements: the weight of a new one never falls below one in this many."""

NOISE_MEMORY = 20
_LARGEST_RESIDUAL = 0.2


class ScoreBoard:
    """Mean score by batch size under the present load, the best size, and how noisy a score is.

    The best size changes hands only when a challenger's mean leads by more than the noise explains: on a plateau the
    incumbent stays.

    Args:
        config: gives the weights of the score.

    Attributes:
        best_size: size with the best mean score; None before any measurement.
        noise: relative standard deviation of repeated scores at one size; 0 until a size was measured twice.
    """

    def __init__(self, config: TunerConfig) -> None:
        # Weights that add up to 1 but for rounding are taken as they are.
        total = config.weight_sum if abs(config.weight_sum - 1.0) > 1e-9 else 1.0
        self._throughput_weight = config.throughput_weight / total
        self._utilisation_weight = config.gpu_utilization_weight / total
        self._memory_weight = config.memory_efficiency_weight / total
        self._entries: dict[int, tuple[float, float, int]] = {}
        self._reference = 0.0
        self._peak_is_known = False
        self._noise_variance = 0.0
        self._residuals = 0
        self.best_size: int | None = None

    @property
    def noise(self) -> float:
        """Relative standard deviation of repeated scores at one size."""
        return math.sqrt(self._noise_variance)

    @property
    def best_score(self) -> float:
        """Mean score of the best size, 0 before any measurement."""
        return 0.0 if self.best_size is None else self.mean(self.best_size)

    def __contains__(self, size: int) -> bool:
        return size in self._entries

    def score(self, sample: Sample) -> float:
        """The score of one sample; moves the reference of throughput, remembers nothing else.

        Args:
            sample: a measurement.
        """
        peak_is_known = sample.peak_tokens_per_s > 0
        if peak_is_known is not self._peak_is_known:
            self._peak_is_known, self._reference = peak_is_known, 0.0
            self.forget()
        throughput, rest = self._parts(sample)
        self._reference = max(self._reference, throughput, 1.0 if peak_is_known else 0.0)
        return self._total(throughput, rest)

    def record(self, size: int, sample: Sample) -> None:
        """Credit a sample to a size; call `score` with it first.

        Args:
            size: the batch size that was measured.
            sample: the measurement.
        """
        throughput, rest = self._parts(sample)
        throughput_before, rest_before, count = self._entries.get(size, (0.0, 0.0, 0))
        rose = False
        if count:
            score, before = self._total(throughput, rest), self._total(throughput_before, rest_before)
            self._learn_noise(score, before, count)
            rose = score >= before
            weight = 1.0 / min(count + 1, MEMORY)
            throughput = throughput_before + weight * (throughput - throughput_before)
            rest = rest_before + weight * (rest - rest_before)
        self._entries[size] = (throughput, rest, count + 1)
        # A best size that rose stays the best, which spares the look at all the others.
        if not (rose and size == self.best_size):
            self._crown_winner(size)

    def reject(self, size: int) -> None:
        """Score a size 0: it was measured and is not acceptable.

        Args:
            size: the batch size.
        """
        self._entries[size] = (0.0, 0.0, 0)
        self._crown_winner(size)

    def crown(self, size: int) -> None:
        """Make a measured size the best one, as the probe decided.

        Args:
            size: a size on the board.
        """
        self.best_size = size

    def defend(self, size: int) -> None:
        """Make a measured size the best one unless another leads it by more than the noise explains.

        Args:
            size: a size on the board.
        """
        self.best_size = size
        self._crown_winner(size)

    def forget(self) -> None:
        """Drop every score: they were taken under another load. The noise and the reference stay."""
        self._entries.clear()
        self.best_size = None

    def mean(self, size: int) -> float:
        """Mean score of a size on the board.

        Args:
            size: the batch size.

        Raises:
            KeyError: the size is not on the board.
        """
        throughput, rest, _ = self._entries[size]
        return self._total(throughput, rest)

    def scores(self, sizes: Iterable[int]) -> dict[int, float]:
        """Mean score by size, for those of the sizes that are on the board.

        Args:
            sizes: batch sizes.
        """
        return {size: self.mean(size) for size in sizes if size in self._entries}

    def is_known_flat_from(self, size: int) -> bool:
        """Whether some size from this one upwards was measured and did not lead: growing there again gains nothing.

        Args:
            size: a batch size.
        """
        return any(known >= size and known != self.best_size for known in self._entries)

    def state_dict(self) -> dict[str, Any]:
        """The board as plain data."""
        return {
            "entries": [[size, *entry] for size, entry in self._entries.items()],
            "reference": self._reference,
            "peak_is_known": self._peak_is_known,
            "noise_variance": self._noise_variance,
            "residuals": self._residuals,
            "best_size": self.best_size,
        }

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        """Go on from a saved board.

        Args:
            state: what `state_dict` returned.

        Raises:
            KeyError: a field is missing.
        """
        self._entries = {int(size): (throughput, rest, count) for size, throughput, rest, count in state["entries"]}
        self._reference = state["reference"]
        self._peak_is_known = state["peak_is_known"]
        self._noise_variance = state["noise_variance"]
        self._residuals = state["residuals"]
        self.best_size = state["best_size"]

    def _total(self, throughput: float, rest: float) -> float:
        normalised = min(throughput / self._reference, 1.0) if self._reference > 0 else 0.0
        return self._throughput_weight * normalised + rest

    def _parts(self, sample: Sample) -> tuple[float, float]:
        """Busy throughput over the estimated peak, itself where none is known; and the rest of the score."""
        peak, throughput = sample.peak_tokens_per_s, sample.throughput_tokens_per_s
        rest = self._utilisation_weight * sample.utilisation + self._memory_weight * sample.memory_efficiency
        return throughput / peak if peak > 0 else throughput, rest

    def _learn_noise(self, score: float, mean: float, count: int) -> None:
        """Follow the squared residual of a score against the mean of `count` earlier ones at the same size."""
        if mean <= 0:
            return
        residual = max(-_LARGEST_RESIDUAL, min(score / mean - 1.0, _LARGEST_RESIDUAL))
        squared = residual * residual * count / (count + 1)
        self._residuals = min(self._residuals + 1, NOISE_MEMORY)
        self._noise_variance += (squared - self._noise_variance) / self._residuals

    def _crown_winner(self, changed: int) -> None:
        if self.best_size is None:
            self.best_size = changed
            return
        if changed != self.best_size:
            if self.mean(changed) > self.best_score * (1.0 + self._margin(changed)):
                self.best_size = changed
            return
        best_score, winner = self.best_score, changed
        weight = self._throughput_weight
        scale = weight / self._reference if self._reference > 0 else 0.0
        for size, (throughput, rest, _) in self._entries.items():
            score = min(scale * throughput, weight) + rest
            if score > best_score and score > best_score * (1.0 + self._margin(size)):
                best_score, winner = score, size
        self.best_size = winner

    def _margin(self, size: int) -> float:
        """Relative lead of a size's mean that noise alone explains, two standard errors."""
        return 2.0 * self.noise / math.sqrt(min(max(self._entries[size][2], 1), MEMORY))
