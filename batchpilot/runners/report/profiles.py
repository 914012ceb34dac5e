"""What averages hide: performance profiles, and the share of the possible gain that a strategy realises.

Source of the profiles: Agarwal et al., "Deep reinforcement learning at the edge of the statistical precipice", NeurIPS
2021; the share of the gap is ours.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import ArrayLike, NDArray

from batchpilot.runners.report.statistics import CONFIDENCE, RESAMPLES, Comparison, Estimate, paired

PROFILE_RESAMPLES = 500
"""Resamples of a band, which is drawn and not read off to the third digit."""

SMALLEST_ROOM = 0.002
"""Mean goodput share between the two references below which a share of it says nothing."""


@dataclass(frozen=True, eq=False)
class Profile:
    """In which share of its runs a strategy reaches a score.

    Attributes:
        thresholds: scores, shape (n,).
        share: share of the runs that reach each, shape (n,).
        low: lower end of the pointwise 95 % band, shape (n,); NaN where seeds give none.
        high: its upper end.
    """

    thresholds: NDArray[np.float64]
    share: NDArray[np.float64]
    low: NDArray[np.float64]
    high: NDArray[np.float64]


def performance_profile(
    rows: Sequence[Mapping[str, Any]], tuner: str, reference: str, thresholds: ArrayLike, *, seed: int = 0
) -> Profile:
    """The profile of a strategy's ratios to a reference, every run weighing the same, banded by stratified bootstrap.

    Runs in which the reference served nothing have no ratio and are left out, for every strategy alike.

    Args:
        rows: result rows.
        tuner: the strategy.
        reference: what its goodput share is divided by, on the same requests.
        thresholds: scores, shape (n,).
        seed: of the bootstrap.

    Raises:
        ValueError: no row of that tuner or reference, or no pair with a ratio.
    """
    scores = np.asarray(thresholds, dtype=np.float64)
    pairs = paired(rows, tuner, reference, "goodput_fraction")
    strata = [np.array([ours / theirs for ours, theirs in pairs[name] if theirs]) for name in sorted(pairs)]
    strata = [finite for ratios in strata if len(finite := ratios[np.isfinite(ratios)])]
    if not strata:
        raise ValueError(f"{tuner} has no run on which {reference} served anything")
    share = _reached(np.concatenate(strata)[None, :], scores)[0]
    if any(len(ratios) < 2 for ratios in strata):
        unknown = np.full_like(scores, math.nan)
        return Profile(scores, share, unknown, unknown)
    rng = np.random.default_rng(seed)
    drawn = [ratios[rng.integers(0, len(ratios), (PROFILE_RESAMPLES, len(ratios)))] for ratios in strata]
    tail = 100 * (1 - CONFIDENCE) / 2
    low, high = np.percentile(_reached(np.concatenate(drawn, axis=1), scores), (tail, 100 - tail), axis=0)
    return Profile(scores, share, low, high)


def gap_closed(rows: Sequence[Mapping[str, Any]], tuner: str, lower: str, upper: str, *, seed: int = 0) -> Comparison:
    """How much of the way from one reference to another a strategy goes: 0 at the lower one, 1 at the upper one.

    Mean gain over the lower reference, over mean room between the two; means over seeds first, then over scenarios, so
    that a scenario without room does not blow up a ratio of its own. A strategy below the lower reference is negative.

    Args:
        rows: result rows.
        tuner: the strategy.
        lower: the reference that stands for nothing gained.
        upper: the one that stands for all that a search found to gain.
        seed: of the bootstrap.

    Returns:
        NaN where the room is below `SMALLEST_ROOM`.

    Raises:
        ValueError: no row of one of the three, or two rows of one (scenario, tuner, seed).
    """
    gains = paired(rows, tuner, lower, "goodput_fraction")
    rooms = paired(rows, upper, lower, "goodput_fraction")
    strata = {
        name: np.array(
            [(ours - low, high - low) for (ours, low), (high, _) in zip(gains[name], rooms[name], strict=False)]
        )
        for name in gains
        if name in rooms
    }
    per_scenario = {name: _gap([values], seed) for name, values in strata.items()}
    return Comparison(per_scenario, _gap([strata[name] for name in sorted(strata)], seed))


def _reached(ratios: NDArray[np.float64], thresholds: NDArray[np.float64]) -> NDArray[np.float64]:
    """Share of the ratios at or above each threshold: shape (resamples, runs) to (resamples, thresholds)."""
    return np.stack([(ratios >= threshold).mean(axis=1) for threshold in thresholds], axis=1)


def _gap(strata: Sequence[NDArray[np.float64]], seed: int) -> Estimate:
    """Summed mean gain over summed mean room of pairs (gain, room), shape (n, 2) a stratum."""
    kept = [finite for pairs in strata if len(finite := pairs[np.isfinite(pairs).all(axis=1)])]
    count = sum(map(len, kept))
    left_out = sum(map(len, strata)) - count
    gain, room = np.sum([pairs.mean(axis=0) for pairs in kept], axis=0) if kept else (0.0, 0.0)
    if room < SMALLEST_ROOM * max(len(kept), 1):
        return Estimate(math.nan, count=count, left_out=left_out)
    value = float(gain / room)
    if any(len(pairs) < 2 for pairs in kept):
        return Estimate(value, count=count, left_out=left_out)
    rng = np.random.default_rng(seed)
    sums = np.sum([pairs[rng.integers(0, len(pairs), (RESAMPLES, len(pairs)))].mean(axis=1) for pairs in kept], axis=0)
    tail = 100 * (1 - CONFIDENCE) / 2
    with np.errstate(divide="ignore", invalid="ignore"):
        low, high = np.percentile(sums[:, 0] / sums[:, 1], (tail, 100 - tail))
    return Estimate(value, float(low), float(high), count, left_out)
