"""How long requests wait: tails of the queue for compute and of the queue for memory. All approximations; times in ms.

The engine decodes first, so a prompt waits for the prompts before it in the room that decoding leaves. A request is
work of two kinds: its prompt at once, and one token a step for as long as it decodes. Both fluctuate, and the second
does so for as long as outputs last; the tail therefore follows the variance of all the work that arrives within a time
t, at the t that makes excess most likely (maximum variance asymptotics of Gaussian queues, Choe and Shroff 1998).
"""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

from batchpilot.latency.full_steps import FullSteps

_ROUNDS = np.geomspace(1, 1e4, 120)


def late_for_compute(
    engine: FullSteps, rate: float, served: NDArray[np.float64], ttft_ms: float
) -> NDArray[np.float64]:
    """Probability that a request's first token comes too late for want of compute, an approximation.

    Two regimes, of which the worse counts: many small requests add up (Gaussian), or one long prompt stands before
    another (few and large).

    Args:
        engine: the engine in full steps.
        rate: requests per ms that arrive.
        served: share of each request that is served rather than refused, shape (n,); the refused are no work.
        ttft_ms: target of the time to first token.

    Returns:
        Probabilities by request, shape (n,); 1 where the prompt alone takes too long.
    """
    room = engine.room(rate, served)
    # A step is under way on arrival, and the prompt's last chunk waits for its step to end: half a step each.
    spare_ms = (ttft_ms - engine.step_ms - engine.prompt_ms / room) * room
    load = rate * float((served * engine.work_ms).mean())
    deviation = np.sqrt(rate * (served @ engine.variance) / len(served))
    score = ((spare_ms[:, None] + (1 - load) * engine.horizon_ms) / deviation).min(axis=1)
    behind_one = rate * _mean_excess(engine.prompt_ms, served, np.maximum(spare_ms, 0.0))
    return np.where(spare_ms < 0, 1.0, np.minimum(np.maximum(_normal_tail(score), behind_one), 1.0))


def late_for_memory(residence_ms: NDArray[np.float64], rate: float, places: int, spare_ms: float) -> float:
    """Probability that a request waits too long for a place among those whose KV cache fits, an approximation.

    First come, first served with n places, a request starts when the one n before it has left. So it waits too long if,
    for some number j of rounds, j * n requests came within j residences less the time to spare; they are Poisson, and
    beyond the first round the variance of residences adds to theirs.

    Args:
        residence_ms: how long requests stay, shape (n,).
        rate: requests per ms that are served, > 0.
        places: requests that fit, >= 1.
        spare_ms: longest wait that is in time.
    """
    from scipy.special import gammainc

    mean, variance = float(residence_ms.mean()), float(residence_ms.var())
    if spare_ms <= 0 or rate * mean >= places:
        return 1.0
    within_ms = _ROUNDS * mean - spare_ms
    spread = 1 + variance / mean**2 * (1 - 1 / _ROUNDS)
    possible = within_ms > 0
    tails = gammainc(_ROUNDS * places / spread, np.where(possible, rate * within_ms, 0.0) / spread)
    return float(tails[possible].max(initial=0.0))


def slo_probability(rate_per_s: float, service_ms: float, target_ms: float) -> float:
    """P(response <= T) >= 1 - rho^(T / E[S]) for one server: an approximation that the batching document states.

    Args:
        rate_per_s: arrivals per second, >= 0.
        service_ms: mean service time E[S], > 0.
        target_ms: promised response time T, > 0.

    Returns:
        The approximate lower bound; 0 where T <= E[S] or the load rho = rate * E[S] is 1 or more, where it says nothing.

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


def _normal_tail(score: NDArray[np.float64]) -> NDArray[np.float64]:
    from scipy.special import ndtr

    return np.asarray(ndtr(-score))
