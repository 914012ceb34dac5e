"""How long requests wait: tails of the queue for compute and of the queue for memory. All approximations; times in ms.

The engine decodes first, so a prompt waits for the prompts before it in the room that decoding leaves. A request is
work of two kinds: its prompt at once, and one token a step for as long as it decodes. Both fluctuate, and the second
does so for as long as outputs last; the tail therefore follows the variance of all the work that arrives within a time
t, at the t that makes excess most likely (maximum variance asymptotics of Gaussian queues, Choe and Shroff 1998).
"""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

from batchpilot.latency.planning.full_steps import FullSteps

_ROUNDS = np.geomspace(1, 1e4, 120)
_ALMOST_FULL = 0.999
_BISECTIONS = 24


def refused_for_compute(engine: FullSteps, rate: float, ttft_ms: float) -> NDArray[np.float64]:
    """Share of requests that compute is too slow for: refused, or late.

    From the tail of the wait without refusals follows the loss with them, (1 - rho) P / (1 - rho P) for a load rho:
    exact for one server with Poisson arrivals (Boots and Tijms 1999). Beyond saturation the excess is lost as well.

    Args:
        engine: the engine in full steps.
        rate: requests per ms that arrive.
        ttft_ms: target of the time to first token.

    Returns:
        Shares by request, shape (n,); 1 where the prompt alone takes too long.
    """
    served = np.ones(len(engine.work_ms))
    load, late = 0.0, served
    for _ in range(2):
        # Prompts that are too long by themselves are refused before they are any work.
        load = rate * float((served * engine.work_ms).mean())
        if load <= 0:
            return np.ones(len(served))
        late = late_for_compute(engine, rate * min(1.0, _ALMOST_FULL / load), served, ttft_ms)
        served = np.where(late < 1, 1.0, 0.0)
    full = min(load, _ALMOST_FULL)
    lost = (1 - full) * late / (1 - full * late) + max(0.0, 1 - 1 / load)
    return np.where(served > 0, np.minimum(lost, 1.0), 1.0)


def refused_for_memory(residence_ms: NDArray[np.float64], rate: float, places: int, spare_ms: float) -> float:
    """Share of requests that KV memory is too small for: those refused take no place, which leaves room to the others.

    Args:
        residence_ms: how long requests stay, shape (n,).
        rate: requests per ms that arrive.
        places: requests that fit, >= 1.
        spare_ms: longest wait that is in time.
    """
    low, high = 0.0, 1.0
    for _ in range(_BISECTIONS):
        middle = (low + high) / 2
        late = late_for_memory(residence_ms, rate * (1 - middle), places, spare_ms)
        low, high = (middle, high) if late > middle else (low, middle)
    return high


def late_for_compute(
    engine: FullSteps, rate: float, served: NDArray[np.float64], ttft_ms: float
) -> NDArray[np.float64]:
    """Probability that a request waits too long for compute when nobody is refused, an approximation.

    Two regimes, of which the worse counts: many small requests add up (Brownian), or one long prompt stands before
    another (few and large).

    Args:
        engine: the engine in full steps.
        rate: requests per ms that arrive; with `served`, a load below 1.
        served: share of each request that is work, shape (n,).
        ttft_ms: target of the time to first token.

    Returns:
        Probabilities by request, shape (n,); 1 where the prompt alone takes too long.
    """
    room = engine.room(rate, served)
    # A step is under way on arrival, and the prompt's last chunk waits for its step to end: half a step each.
    spare_ms = (ttft_ms - engine.step_ms - engine.prompt_ms / room) * room
    load = rate * float((served * engine.work_ms).mean())
    variance = rate * (served @ engine.variance) / len(served)
    exponent = (((spare_ms[:, None] + (1 - load) * engine.horizon_ms) ** 2) / (2 * variance)).min(axis=1)
    behind_one = rate * _mean_excess(engine.prompt_ms, served, np.maximum(spare_ms, 0.0))
    return np.where(spare_ms < 0, 1.0, np.minimum(np.maximum(np.exp(-exponent), behind_one), 1.0))


def late_for_memory(residence_ms: NDArray[np.float64], rate: float, places: int, spare_ms: float) -> float:
    """Probability that a request waits too long for a place when nobody is refused, an approximation.

    First come, first served with n places, a request starts when the one n before it has left. So it waits too long if,
    for some number j of rounds, j * n requests came within j residences less the time to spare; they are Poisson, and
    beyond the first round the variance of residences adds to theirs.

    Args:
        residence_ms: how long requests stay, shape (n,).
        rate: requests per ms that arrive, >= 0.
        places: requests that fit, >= 1.
        spare_ms: longest wait that is in time.
    """
    from scipy.special import gammainc

    mean, variance = float(residence_ms.mean()), float(residence_ms.var())
    if spare_ms <= 0 or rate * mean >= places:
        return 1.0
    within_ms = _ROUNDS * mean - spare_ms
    spread = 1 + variance / mean**2 * (1 - 1 / _ROUNDS) if mean > 0 else 1.0
    tails = gammainc(_ROUNDS * places / spread, rate * np.maximum(within_ms, 0.0) / spread)
    return float(tails.max())


def slo_probability(rate_per_s: float, service_ms: float, target_ms: float) -> float:
    """P(response <= T) >= 1 - rho^(T / E[S]) for one server: an approximation that the batching document states.

    Args:
        rate_per_s: arrivals per second, >= 0.
        service_ms: mean service time E[S], > 0.
        target_ms: promised response time T, > 0.

    Returns:
        The approximate lower bound; 0 where it says nothing: T <= E[S], or a load rho = rate * E[S] of 1 or more.

    Raises:
        ValueError: an argument is outside its bound.

    Source: batching strategies document, SLO bound. It is no theorem: neither the distribution of service times nor
    batching enters it.
    """
    if not (rate_per_s >= 0 and service_ms > 0 and target_ms > 0):
        raise ValueError(f"rate {rate_per_s} must be >= 0, service {service_ms} and target {target_ms} ms above 0")
    load = rate_per_s * service_ms / 1000.0
    return float(1.0 - load ** (target_ms / service_ms)) if load < 1 and target_ms > service_ms else 0.0


def _mean_excess(
    values: NDArray[np.float64], weights: NDArray[np.float64], thresholds: NDArray[np.float64]
) -> NDArray[np.float64]:
    """Weighted mean of max(value - threshold, 0) for each threshold, by sums over the values above it."""
    order = np.argsort(values)
    above = np.append(np.cumsum((weights * values)[order][::-1])[::-1], 0.0)
    count = np.append(np.cumsum(weights[order][::-1])[::-1], 0.0)
    first = np.searchsorted(values[order], thresholds)
    return np.asarray((above[first] - thresholds * count[first]) / len(values))
