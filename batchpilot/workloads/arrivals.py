"""Arrival processes: when requests come. Rates per second, times in ms, from 0 to before `duration_ms`."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
from numpy.typing import NDArray


def poisson(rate_per_s: float, duration_ms: float, rng: np.random.Generator) -> NDArray[np.float64]:
    """Independent arrivals at a constant rate.

    Args:
        rate_per_s: mean arrivals per second, > 0.
        duration_ms: length of the process, > 0.
        rng: source of randomness.

    Returns:
        Arrival times in ms, ascending, shape (n,).

    Raises:
        ValueError: an argument is not above 0 or not finite.
    """
    _require_positive(rate_per_s=rate_per_s, duration_ms=duration_ms)
    count = rng.poisson(rate_per_s * duration_ms / 1000.0)
    return np.sort(rng.random(count)) * duration_ms


def gamma(rate_per_s: float, cv: float, duration_ms: float, rng: np.random.Generator) -> NDArray[np.float64]:
    """Renewal arrivals with gamma-distributed gaps: bursty above a coefficient of variation of 1, regular below.

    Args:
        rate_per_s: mean arrivals per second, > 0.
        cv: coefficient of variation of the gaps, > 0; 1 is a Poisson process.
        duration_ms: length of the process, > 0.
        rng: source of randomness.

    Returns:
        Arrival times in ms, ascending, shape (n,).

    Raises:
        ValueError: an argument is not above 0 or not finite.

    Source: AlpaServe (OSDI 2023) and the burstiness of vLLM's serving benchmark, which is the shape 1 / cv^2.
    """
    _require_positive(rate_per_s=rate_per_s, cv=cv, duration_ms=duration_ms)
    shape = cv**-2
    scale_ms = 1000.0 / rate_per_s / shape
    chunk = int(rate_per_s * duration_ms / 1000.0) + 16
    pieces: list[NDArray[np.float64]] = []
    now_ms = 0.0
    while now_ms < duration_ms:
        pieces.append(now_ms + np.cumsum(rng.gamma(shape, scale_ms, chunk)))
        now_ms = float(pieces[-1][-1])
    arrival_ms = np.concatenate(pieces)
    return arrival_ms[arrival_ms < duration_ms]


def mmpp(
    factors: Sequence[float],
    mean_dwell_s: Sequence[float],
    rate_per_s: float,
    duration_ms: float,
    rng: np.random.Generator,
) -> NDArray[np.float64]:
    """Markov-modulated Poisson arrivals: the rate jumps between states that last exponentially long.

    Factors are relative to each other: they are scaled so that the long-run mean rate is `rate_per_s`. After a state,
    each of the others is equally likely; the first one is drawn by its share of time, so the process is stationary.

    Args:
        factors: relative rate of each state, >= 0, not all 0, at least two.
        mean_dwell_s: mean time spent in each state, > 0, one for each factor.
        rate_per_s: mean arrivals per second over all states, > 0.
        duration_ms: length of the process, > 0.
        rng: source of randomness.

    Returns:
        Arrival times in ms, ascending, shape (n,).

    Raises:
        ValueError: fewer than two states, lengths that differ, or a value outside its bound.
    """
    _require_positive(rate_per_s=rate_per_s, duration_ms=duration_ms)
    relative, dwell_s = np.asarray(factors, dtype=np.float64), np.asarray(mean_dwell_s, dtype=np.float64)
    if len(relative) < 2 or relative.shape != dwell_s.shape:
        raise ValueError(
            f"{len(relative)} factors and {len(dwell_s)} dwell times; give two or more, one of each a state"
        )
    if not (np.isfinite(relative).all() and (relative >= 0).all() and relative.any()):
        raise ValueError(f"state factors are {list(factors)}; they must be >= 0 and not all 0")
    if not (np.isfinite(dwell_s).all() and (dwell_s > 0).all()):
        raise ValueError(f"mean_dwell_s is {list(mean_dwell_s)}; every dwell time must be above 0 s")
    share = dwell_s / dwell_s.sum()
    rates_per_s = relative * rate_per_s / (relative @ share)

    state = int(rng.choice(len(share), p=share))
    start_ms, pieces = 0.0, [np.empty(0)]
    while start_ms < duration_ms:
        end_ms = min(start_ms + rng.exponential(dwell_s[state]) * 1000.0, duration_ms)
        if rates_per_s[state] > 0 and end_ms > start_ms:
            pieces.append(start_ms + poisson(rates_per_s[state], end_ms - start_ms, rng))
        start_ms = end_ms
        state = (state + int(rng.integers(1, len(share)))) % len(share)
    return np.concatenate(pieces)


def diurnal(
    rate_per_s: float, amplitude: float, period_s: float, duration_ms: float, rng: np.random.Generator
) -> NDArray[np.float64]:
    """Poisson arrivals whose rate follows `rate * (1 + amplitude * sin(2 pi t / period))`, drawn by thinning.

    Args:
        rate_per_s: mean arrivals per second over a period, > 0.
        amplitude: relative swing, from 0 to 1.
        period_s: length of one day, > 0.
        duration_ms: length of the process, > 0.
        rng: source of randomness.

    Returns:
        Arrival times in ms, ascending, shape (n,).

    Raises:
        ValueError: an argument is outside its bound.

    Source: Lewis and Shedler (1979), simulation of nonhomogeneous Poisson processes by thinning.
    """
    _require_positive(rate_per_s=rate_per_s, period_s=period_s, duration_ms=duration_ms)
    if not 0 <= amplitude <= 1:
        raise ValueError(f"amplitude is {amplitude}; it must be from 0 to 1")
    candidate_ms = poisson(rate_per_s * (1 + amplitude), duration_ms, rng)
    relative = 1 + amplitude * np.sin(2 * np.pi * candidate_ms / (period_s * 1000.0))
    return candidate_ms[rng.random(len(candidate_ms)) * (1 + amplitude) < relative]


def _require_positive(**values: float) -> None:
    for name, value in values.items():
        if not (np.isfinite(value) and value > 0):
            raise ValueError(f"{name} is {value}; it must be above 0")
