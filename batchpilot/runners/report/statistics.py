"""Point estimates and intervals over seeds: interquartile means, paired ratios, stratified bootstrap.

A *stratum* is one scenario; its values are one a seed. Seeds are resampled within each scenario and never between
scenarios, because a suite's scenarios are chosen, not drawn. One seed shows no spread, so there is no interval then:
its ends are NaN, and they are never made up.

Source: Agarwal et al., "Deep reinforcement learning at the edge of the statistical precipice", NeurIPS 2021.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import ArrayLike, NDArray

from batchpilot.core.names import unknown_name

RESAMPLES = 2000
CONFIDENCE = 0.95

Statistic = Callable[[NDArray[np.float64]], NDArray[np.float64]]
"""From values of shape (..., n) to one figure each, shape (...)."""


@dataclass(frozen=True, slots=True)
class Estimate:
    """A figure with its interval.

    Attributes:
        value: the point estimate; NaN without a value to estimate from.
        low: lower end of the 95 % interval; NaN where there is none.
        high: its upper end, likewise.
        count: values it rests on.
        left_out: values that could not be used.
    """

    value: float
    low: float = math.nan
    high: float = math.nan
    count: int = 0
    left_out: int = 0

    @property
    def has_interval(self) -> bool:
        """Whether there were seeds enough for an interval."""
        return math.isfinite(self.low) and math.isfinite(self.high)


@dataclass(frozen=True, slots=True)
class Comparison:
    """A strategy against a reference, in every scenario that both ran and over all of them.

    Attributes:
        per_scenario: by scenario, in order of first appearance.
        overall: over every pair of runs.
    """

    per_scenario: dict[str, Estimate]
    overall: Estimate


def interquartile_mean(values: ArrayLike) -> NDArray[np.float64]:
    """Mean of the middle half, with fractional weights at its edges so that it is exact for every n.

    Sorted value i of n stands for the interval [i, i + 1] and weighs as much of it as lies in [n/4, 3n/4]. So n = 1
    gives the value, n = 2 the mean, n = 3 the weights 1/6, 2/3, 1/6, and n = 4 the mean of the middle two. NaN makes
    the result NaN.

    Args:
        values: shape (..., n), n >= 1; the last axis is averaged.

    Returns:
        Shape (...).

    Raises:
        ValueError: no values.
    """
    ordered = np.sort(np.atleast_1d(np.asarray(values, dtype=np.float64)), axis=-1)
    n = ordered.shape[-1]
    if n == 0:
        raise ValueError("no values to average; the interquartile mean needs at least one")
    edge = np.arange(n, dtype=np.float64)
    weight = np.clip(np.minimum(edge + 1, 0.75 * n) - np.maximum(edge, 0.25 * n), 0.0, None)
    middle = weight > 0
    mean = ordered[..., middle] @ (weight[middle] / weight.sum())
    # NaN is sorted to the end, where a weight of zero would hide it; and rounding must not leave the middle's range.
    bounded = np.clip(mean, ordered[..., middle][..., 0], ordered[..., middle][..., -1])
    return np.where(np.isnan(ordered[..., -1]), np.nan, bounded)


def bootstrap_interval(
    strata: Sequence[ArrayLike],
    rng: np.random.Generator,
    *,
    statistic: Statistic = interquartile_mean,
    confidence: float = CONFIDENCE,
    resamples: int = RESAMPLES,
) -> tuple[float, float]:
    """Percentile interval of a statistic over pooled strata, resampling within each.

    Percentile intervals of few seeds are too narrow: three seeds have ten distinct resamples. They are a lower bound on
    the uncertainty, which the report says beside them.

    Args:
        strata: values by stratum, each of shape (n,), finite.
        rng: the source of resamples; equal generators give equal intervals.
        statistic: what is estimated from the pooled values.
        confidence: share of the resampled statistics within the interval, in (0, 1).
        resamples: how many.

    Returns:
        Lower and upper end; NaN for both where any stratum has fewer than two values, or there is no stratum.

    Raises:
        ValueError: `confidence` or `resamples` is out of range.
    """
    if not 0 < confidence < 1 or resamples < 1:
        raise ValueError(f"confidence is {confidence} and resamples {resamples}; (0, 1) and >= 1 are allowed")
    arrays = [np.asarray(stratum, dtype=np.float64) for stratum in strata]
    if not arrays or any(len(array) < 2 for array in arrays):
        return math.nan, math.nan
    drawn = [array[rng.integers(0, len(array), (resamples, len(array)))] for array in arrays]
    tail = 100 * (1 - confidence) / 2
    low, high = np.percentile(statistic(np.concatenate(drawn, axis=1)), (tail, 100 - tail))
    return float(low), float(high)


def estimate(strata: Sequence[ArrayLike], *, statistic: Statistic = interquartile_mean, seed: int = 0) -> Estimate:
    """A statistic over pooled strata, with its interval.

    Values that are not finite are left out and counted. Every estimate draws from a fresh generator of the same seed,
    so that it does not depend on what was estimated before it.

    Args:
        strata: values by stratum, each of shape (n,); strata left empty are dropped.
        statistic: what is estimated from the pooled values.
        seed: of the bootstrap.
    """
    arrays = [np.asarray(stratum, dtype=np.float64) for stratum in strata]
    kept = [finite for array in arrays if len(finite := array[np.isfinite(array)])]
    count = sum(map(len, kept))
    left_out = sum(map(len, arrays)) - count
    if not kept:
        return Estimate(math.nan, left_out=left_out)
    low, high = bootstrap_interval(kept, np.random.default_rng(seed), statistic=statistic)
    return Estimate(float(statistic(np.concatenate(kept))), low, high, count, left_out)


def ratio_to_reference(
    rows: Sequence[Mapping[str, Any]], tuner: str, reference: str, *, column: str = "goodput_fraction", seed: int = 0
) -> Comparison:
    """Ratio of a strategy to a reference on the same requests, paired by (scenario, seed).

    Per scenario it is the interquartile mean of the ratios over seeds; overall, over all pairs, stratified by scenario.
    A pair has no ratio where the reference is zero or either is NaN: it is left out and counted. Whether a reference is
    zero is the same for every strategy, so leaving its pairs out favours none of them; a strategy's own zero counts.

    Args:
        rows: result rows.
        tuner: the strategy.
        reference: what it is divided by.
        column: the quantity; the goodput share by default. On the same requests its ratio is that of the tokens served
            within SLO, and unlike a rate it does not rise when a run ends early.
        seed: of the bootstrap.

    Raises:
        ValueError: no row of that tuner or reference, or two rows of one (scenario, tuner, seed).
    """
    ratios = {
        scenario: [_ratio(ours, theirs) for ours, theirs in pairs]
        for scenario, pairs in paired(rows, tuner, reference, column).items()
    }
    return _comparison(ratios, interquartile_mean, seed)


def probability_of_improvement(
    rows: Sequence[Mapping[str, Any]], tuner: str, reference: str, *, column: str = "goodput_fraction", seed: int = 0
) -> Comparison:
    """Share of the pairs in which a strategy does better than a reference; a tie counts one half, NaN is left out.

    Pairs are runs on the same requests, a sharper comparison than the all-against-all one of the source.

    Args:
        rows: result rows.
        tuner: the strategy.
        reference: what it must beat.
        column: the quantity, larger is better.
        seed: of the bootstrap.

    Raises:
        ValueError: no row of that tuner or reference, or two rows of one (scenario, tuner, seed).
    """
    wins = {
        scenario: [0.5 * (1 + float(np.sign(ours - theirs))) for ours, theirs in pairs]
        for scenario, pairs in paired(rows, tuner, reference, column).items()
    }
    return _comparison(wins, _mean, seed)


def paired(
    rows: Sequence[Mapping[str, Any]], tuner: str, reference: str, column: str
) -> dict[str, list[tuple[float, float]]]:
    """A strategy's and a reference's values on the same requests, by scenario, in order of seed.

    Args:
        rows: result rows; runs without a counterpart are passed over.
        tuner: the strategy, first in each pair.
        reference: the reference, second.
        column: the quantity.

    Raises:
        ValueError: no row of that tuner or reference, or two rows of one (scenario, tuner, seed).
    """
    ours, theirs = _by_run(rows, tuner, column), _by_run(rows, reference, column)
    scenarios = dict.fromkeys(scenario for scenario, _ in ours)
    common = sorted(ours.keys() & theirs.keys(), key=lambda run: run[1])
    pairs = {scenario: [(ours[run], theirs[run]) for run in common if run[0] == scenario] for scenario in scenarios}
    return {scenario: values for scenario, values in pairs.items() if values}


def _comparison(strata: Mapping[str, list[float]], statistic: Statistic, seed: int) -> Comparison:
    per_scenario = {name: estimate([values], statistic=statistic, seed=seed) for name, values in strata.items()}
    # In order of name, so that the order of the rows does not change the resamples.
    overall = estimate([strata[name] for name in sorted(strata)], statistic=statistic, seed=seed)
    return Comparison(per_scenario, overall)


def _by_run(rows: Sequence[Mapping[str, Any]], tuner: str, column: str) -> dict[tuple[str, int], float]:
    values: dict[tuple[str, int], float] = {}
    for row in rows:
        if row["tuner"] != tuner:
            continue
        run = (row["scenario"], row["seed"])
        if run in values:
            raise ValueError(f"{tuner} has two rows for scenario {run[0]!r} and seed {run[1]}; drop one of them")
        values[run] = float(row[column])
    if not values:
        raise ValueError(unknown_name(tuner, dict.fromkeys(row["tuner"] for row in rows), "tuner in these rows"))
    return values


def _ratio(ours: float, theirs: float) -> float:
    return ours / theirs if theirs else math.nan


def _mean(values: NDArray[np.float64]) -> NDArray[np.float64]:
    return np.asarray(values.mean(axis=-1))
