"""Serving a Poisson stream by a dispatch policy, compiled: what `evaluate` says, measured without truncation."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import numpy as np
from numba import njit
from numpy.typing import NDArray

from batchpilot.baselines.dispatch.batch_service import MS_PER_S, BatchServiceProblem, DispatchPolicy

_GROUPS = 32


@dataclass(frozen=True)
class DispatchResult:
    """What a stream of requests met with.

    Attributes:
        latency_ms: time from arrival to the end of its batch, of every request in order of arrival, shape (n,).
        batches: batches served.
        elapsed_ms: from the first moment to the end of the last batch.
        energy_j: energy of all batches.
        mean_cost: `latency_weight` x mean latency + `energy_weight` x mean power, the part of `evaluate` that is real.
    """

    latency_ms: NDArray[np.float64]
    batches: int
    elapsed_ms: float
    energy_j: float
    mean_cost: float

    @property
    def mean_latency_ms(self) -> float:
        """Mean response time."""
        return float(self.latency_ms.mean())

    @property
    def power_w(self) -> float:
        """Mean power."""
        return MS_PER_S * self.energy_j / self.elapsed_ms

    @property
    def standard_error_ms(self) -> float:
        """Standard error of the mean latency by the method of batch means, 32 groups."""
        means = [group.mean() for group in np.array_split(self.latency_ms, _GROUPS)]
        return float(np.std(means, ddof=1) / np.sqrt(_GROUPS))


def simulate_policy(
    problem: BatchServiceProblem, policy: DispatchPolicy, *, requests: int = 100_000, seed: int = 0
) -> DispatchResult:
    """Serve Poisson arrivals by a policy. Equal seeds give equal arrivals, whatever the policy.

    The queue is not truncated; beyond `max_queue` the policy's choice for overflow holds. After the last arrival the
    rest is served in the largest batches.

    Args:
        problem: the queue.
        policy: what is dispatched in each state.
        requests: arrivals, >= 32.
        seed: of the arrivals.

    Raises:
        ValueError: too few requests.
    """
    if requests < _GROUPS:
        raise ValueError(f"requests is {requests}; it must be >= {_GROUPS}")
    gaps = np.random.default_rng(seed).exponential(1.0 / problem.arrivals_per_ms, requests)
    arrival_ms = np.cumsum(gaps)
    finish_ms = np.empty(requests)
    service = np.array([0.0, *problem.service_ms])
    energy = np.array([0.0, *(problem.energy_j or ())])
    batches, elapsed_ms, energy_j = _serve(arrival_ms, policy.dispatch, service, energy, finish_ms)
    latency_ms = finish_ms - arrival_ms
    power_w = MS_PER_S * energy_j / elapsed_ms
    cost = problem.latency_weight * float(latency_ms.mean()) + problem.energy_weight * power_w
    return DispatchResult(latency_ms, batches, elapsed_ms, energy_j, cost)


def _serve_stream(
    arrival_ms: NDArray[np.float64],
    dispatch: NDArray[np.int64],
    service_ms: NDArray[np.float64],
    energy_j: NDArray[np.float64],
    finish_ms: NDArray[np.float64],
) -> tuple[int, float, float]:
    """First come, first served; fills `finish_ms` and returns batches, end and energy."""
    n = len(arrival_ms)
    now, energy = 0.0, 0.0
    arrived = done = batches = 0
    while done < n:
        while arrived < n and arrival_ms[arrived] <= now:
            arrived += 1
        queue = arrived - done
        size = dispatch[min(queue, len(dispatch) - 1)]
        if size == 0 and arrived < n:
            now = arrival_ms[arrived]
            continue
        if size == 0:
            size = min(queue, len(service_ms) - 1)
        now += service_ms[size]
        energy += energy_j[size]
        batches += 1
        for k in range(done, done + size):
            finish_ms[k] = now
        done += size
    return batches, now, energy


_serve: Callable[..., tuple[int, float, float]] = njit(cache=True, nogil=True)(_serve_stream)
