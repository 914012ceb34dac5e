"""Two samples compared again and again: distances, p-values, and levels that keep their promise over a whole stream."""

from __future__ import annotations

import math

import numpy as np
from numpy.typing import NDArray

Array = NDArray[np.float64]

_BLOCK, _LEAST_BLOCKS = 50, 4


def spent_level(level: float, test: int) -> float:
    """The part of a level that the k-th of endlessly many tests may use: level / (k (k + 1)).

    The parts add up to the level, so by the union bound the chance of even one false alarm in an endless stream stays
    below it. That holds however the tests depend on one another: overlapping windows are no problem.

    Args:
        level: for the whole stream, 0 to 1.
        test: number of the test, from 1.
    """
    return level / (test * (test + 1))


def ks_distance(first: Array, second: Array) -> float:
    """Largest distance between two empirical distributions (the two-sample Kolmogorov-Smirnov statistic).

    Args:
        first: sorted, at least one value.
        second: sorted, at least one value.
    """
    values = np.concatenate((first, second))
    below_first = np.searchsorted(first, values, side="right") / len(first)
    below_second = np.searchsorted(second, values, side="right") / len(second)
    return float(np.max(np.abs(below_first - below_second)))


def autocorrelation_time(values: Array) -> float:
    """How many successive values say as much as one independent value; at least 1.

    By block means, on ranks so that glitches do not hide it; correlation over more than 50 values goes unseen.

    Args:
        values: in order of time, shape (n,); 1 is returned for fewer than 200.
    """
    blocks = len(values) // _BLOCK
    if blocks < _LEAST_BLOCKS:
        return 1.0
    ranks = np.empty(len(values))
    ranks[np.argsort(values)] = np.arange(len(values))
    means = ranks[: blocks * _BLOCK].reshape(blocks, _BLOCK).mean(axis=1)
    return max(1.0, float(_BLOCK * means.var(ddof=1) / ranks.var()))


def ks_threshold(level: float, first: float, second: float) -> float:
    """The distance that two samples of one distribution exceed with at most this probability, whatever their size.

    Levels far out in the tail are where the usual asymptotic p-value is least to be trusted, so this is an inequality,
    P(distance > d) <= e * exp(-2 d^2 nm/(n+m)).

    Args:
        level: above 0.
        first: independent values in one sample, > 0.
        second: those in the other, > 0.

    Source: Wei and Dudley (2012), two-sample Dvoretzky-Kiefer-Wolfowitz inequalities: e serves every n = m; for n != m
    they find 2 enough up to 200 and conjecture it beyond, which e exceeds.
    """
    return math.sqrt(math.log(math.e / level) * (first + second) / (2.0 * first * second))


def mann_whitney_p(baseline: Array, recent: Array) -> float:
    """One-sided p-value of the Mann-Whitney test: how likely `recent` is this much larger by chance.

    The normal approximation with tie and continuity correction; its tail is heavier than that of the statistic, so
    small levels are met conservatively.

    Args:
        baseline: at least one value.
        recent: at least one value.

    Source: Mann and Whitney (1947).
    """
    n, m = len(baseline), len(recent)
    ordered = np.sort(baseline)
    wins = np.searchsorted(ordered, recent, side="left") + np.searchsorted(ordered, recent, side="right")
    u = 0.5 * float(np.sum(wins))
    ties = np.unique(np.concatenate((baseline, recent)), return_counts=True)[1].astype(np.float64)
    total = n + m
    variance = n * m / 12.0 * (total + 1 - float(np.sum(ties**3 - ties)) / (total * max(total - 1, 1)))
    if variance <= 0.0:
        return 1.0
    return 0.5 * math.erfc((u - 0.5 * n * m - 0.5) / math.sqrt(2.0 * variance))


def where_it_changed(reference: Array, recent: Array) -> int:
    """Index in `recent` from which on it no longer looks like the reference.

    Each value becomes its place in the reference distribution, -1/2 to 1/2, which is 0 on average before the change;
    of all tails of `recent` the one with the most significant mean place wins.

    Args:
        reference: sorted, before the change; at least one value.
        recent: in order of time, the change somewhere within; at least one value.
    """
    low = np.searchsorted(reference, recent, side="left")
    high = np.searchsorted(reference, recent, side="right")
    place = (low + high) / (2.0 * len(reference)) - 0.5
    tails = np.cumsum(place[::-1])[::-1]
    lengths = np.arange(len(recent), 0, -1)
    return int(np.argmax(tails**2 / lengths))
