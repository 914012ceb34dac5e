"""The batch-service queue: Poisson arrivals, one server, a service time that depends on the size of the batch.

The problem of static batching stripped to its core: whenever the server is free, wait for the next arrival or serve a
batch of some size. The objective is the paper's: a weighted sum of mean response time and mean power. Since mean
response time is mean number in system over arrival rate (Little), holding n requests costs n / arrival rate a unit of
time. Times in ms, rates in requests per second, energies in J; a mean cost is in ms (plus weighted watts).

The queue is truncated as in the paper: the requests beyond `max_queue` are one overflow state that behaves like
`max_queue` and costs extra (the abstract cost), so that no policy gains by letting arrivals pile up there. In overflow
the largest batch is served: a model that forgets how deep the queue is would find short batches the quickest way out.

Source: Xu, Sun, Zhou and Niu, "SMDP-Based Dynamic Batching for Efficient Inference on GPU-Based Platforms" (ICC 2023,
arXiv 2301.12865), and its extension for batch services (arXiv 2501.02181).
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from functools import cached_property

import numpy as np
from numpy.typing import ArrayLike, NDArray

MS_PER_S = 1000.0


@dataclass(frozen=True)
class BatchServiceProblem:
    """One batch-service queue and what its operator minds.

    Attributes:
        arrival_rate_per_s: Poisson arrivals per second, > 0.
        service_ms: service time of a batch of 1, 2, ... requests, each > 0; its length is the largest batch.
        max_queue: requests told apart, at least the largest batch; more are the overflow state.
        energy_j: energy of a batch of 1, 2, ... requests, each >= 0; None for no energy.
        latency_weight: cost of a ms of mean response time, >= 0.
        energy_weight: cost of a watt of mean power, >= 0.
        overflow_cost: extra cost while in overflow, >= 0; None holds as many requests again as `max_queue`.

    Raises:
        ValueError: a value is outside its bound; the message names it.
    """

    arrival_rate_per_s: float
    service_ms: Sequence[float]
    max_queue: int = 200
    energy_j: Sequence[float] | None = None
    latency_weight: float = 1.0
    energy_weight: float = 0.0
    overflow_cost: float | None = None

    def __post_init__(self) -> None:
        service = tuple(map(float, self.service_ms))
        energy = (0.0,) * len(service) if self.energy_j is None else tuple(map(float, self.energy_j))
        if not service or not all(math.isfinite(ms) and ms > 0 for ms in service):
            raise ValueError(f"service_ms is {service}; it must hold one time above 0 ms for each batch size")
        if len(energy) != len(service) or not all(math.isfinite(joules) and joules >= 0 for joules in energy):
            raise ValueError(f"energy_j is {energy}; it must hold one energy >= 0 J for each of {len(service)} sizes")
        if not (math.isfinite(self.arrival_rate_per_s) and self.arrival_rate_per_s > 0):
            raise ValueError(f"arrival_rate_per_s is {self.arrival_rate_per_s}; it must be above 0")
        if self.max_queue < len(service):
            raise ValueError(f"max_queue {self.max_queue} is below the largest batch of {len(service)}")
        for name in ("latency_weight", "energy_weight", "overflow_cost"):
            value = getattr(self, name)
            if value is not None and not (math.isfinite(value) and value >= 0):
                raise ValueError(f"{name} is {value}; it must be >= 0")
        object.__setattr__(self, "service_ms", service)
        object.__setattr__(self, "energy_j", energy)
        if self.overflow_cost is None:
            object.__setattr__(self, "overflow_cost", self.latency_weight * self.max_queue / self.arrivals_per_ms)

    @property
    def max_batch(self) -> int:
        """The largest batch."""
        return len(self.service_ms)

    @property
    def states(self) -> int:
        """Queue lengths 0 to `max_queue`, and overflow."""
        return self.max_queue + 2

    @property
    def arrivals_per_ms(self) -> float:
        """Arrival rate in the unit of the service times."""
        return self.arrival_rate_per_s / MS_PER_S

    @property
    def load(self) -> float:
        """Arrival rate over the largest service rate; the queue is stable under some policy below 1."""
        return self.arrivals_per_ms * min(ms / size for size, ms in enumerate(self.service_ms, 1))

    def waiting(self, state: int) -> int:
        """Requests that a batch can be made of.

        Args:
            state: queue length, `max_queue + 1` for overflow.
        """
        return min(state, self.max_queue)

    @cached_property
    def sojourn_ms(self) -> NDArray[np.float64]:
        """Mean time until the next decision after dispatching 0 (wait for an arrival), 1, ... requests.

        Returns:
            Shape (max_batch + 1,).
        """
        return np.array([1.0 / self.arrivals_per_ms, *self.service_ms])

    @cached_property
    def costs(self) -> NDArray[np.float64]:
        """Expected cost until the next decision, by state and dispatched requests.

        Those in the queue and in service are held all the while; those who arrive meanwhile, half of it on average.

        Returns:
            Shape (states, max_batch + 1); infinite where fewer requests wait than would be dispatched, and for anything
            but the largest batch in overflow.
        """
        waiting = np.minimum(np.arange(self.states), self.max_queue)[:, None]
        dispatched = np.arange(self.max_batch + 1)
        time = self.sojourn_ms
        arriving = np.where(dispatched > 0, self.arrivals_per_ms * time / 2, 0.0)
        cost = self.latency_weight / self.arrivals_per_ms * (waiting + arriving) * time
        cost += self.energy_weight * MS_PER_S * np.array([0.0, *(self.energy_j or ())])
        cost[-1] += (self.overflow_cost or 0.0) * time
        cost[-1, :-1] = np.inf
        return np.where(dispatched <= waiting, cost, np.inf)

    @cached_property
    def arrivals(self) -> NDArray[np.float64]:
        """Probability of 0, 1, ... arrivals until the next decision, by dispatched requests.

        Returns:
            Shape (max_batch + 1, states); the tail beyond is missing from the sums.
        """
        probability = np.zeros((self.max_batch + 1, self.states))
        probability[0, 1] = 1.0
        counts = np.arange(self.states)
        log_factorial = np.concatenate([[0.0], np.cumsum(np.log(counts[1:]))])
        mean = self.arrivals_per_ms * np.array(self.service_ms)[:, None]
        probability[1:] = np.exp(counts * np.log(mean) - mean - log_factorial)
        return probability

    @cached_property
    def transitions(self) -> NDArray[np.float64]:
        """Where the next decision finds the queue, by dispatched requests and requests left behind.

        Returns:
            Shape (max_batch + 1, max_queue + 1, states); each last axis sums to 1, its last entry is overflow.
        """
        left = np.arange(self.max_queue + 1)[:, None]
        step = np.arange(self.states - 1) - left
        reached = np.where(step >= 0, self.arrivals[:, np.maximum(step, 0)], 0.0)
        overflow = np.maximum(1.0 - reached.sum(axis=2, keepdims=True), 0.0)
        return np.concatenate([reached, overflow], axis=2)


@dataclass(frozen=True, eq=False)
class DispatchPolicy:
    """How many requests to dispatch, by queue length.

    Attributes:
        dispatch: shape (max_queue + 2,), the last for overflow; 0 waits for the next arrival.
    """

    dispatch: NDArray[np.int64]

    def size(self, queue: int) -> int:
        """Requests to dispatch.

        Args:
            queue: requests waiting, >= 0; beyond the table it is overflow.
        """
        return int(self.dispatch[min(queue, len(self.dispatch) - 1)])

    @property
    def control_limit(self) -> int | None:
        """The shortest queue that is served; None if none is."""
        served = np.flatnonzero(self.dispatch)
        return int(served[0]) if len(served) else None

    @property
    def has_control_limit(self) -> bool:
        """Whether every queue from the control limit on is served."""
        return self.control_limit is not None and bool(np.all(self.dispatch[self.control_limit :] > 0))


def dispatch_policy(problem: BatchServiceProblem, dispatch: ArrayLike) -> DispatchPolicy:
    """A policy from a table of dispatch sizes, checked against the problem.

    Args:
        problem: the queue.
        dispatch: shape (states,), whole numbers from 0 to the requests waiting, at most `max_batch`, which is what
            overflow needs.

    Raises:
        ValueError: wrong shape, or a size that cannot be dispatched; the message names the state.
    """
    table = np.asarray(dispatch)
    if table.shape != (problem.states,) or not np.issubdtype(table.dtype, np.integer):
        raise ValueError(
            f"dispatch has shape {table.shape} of {table.dtype}; it must hold {problem.states} whole numbers"
        )
    most = np.minimum(np.minimum(np.arange(problem.states), problem.max_queue), problem.max_batch)
    least = np.where(np.arange(problem.states) > problem.max_queue, problem.max_batch, 0)
    wrong = np.flatnonzero((table < least) | (table > most))
    if len(wrong):
        state = int(wrong[0])
        raise ValueError(f"dispatch[{state}] is {table[state]}; it must be {least[state]} to {most[state]}")
    return DispatchPolicy(table.astype(np.int64))


def control_limit_policy(problem: BatchServiceProblem, limit: int = 1) -> DispatchPolicy:
    """Wait for `limit` requests, then serve as many as a batch holds; 1 is the greedy (work-conserving) policy.

    Args:
        problem: the queue.
        limit: shortest queue that is served, 1 to `max_queue`.

    Raises:
        ValueError: the limit is outside its bounds.
    """
    if not 1 <= limit <= problem.max_queue:
        raise ValueError(f"limit is {limit}; it must be 1 to max_queue {problem.max_queue}")
    queue = np.minimum(np.arange(problem.states), problem.max_queue)
    return DispatchPolicy(np.where(queue >= limit, np.minimum(queue, problem.max_batch), 0).astype(np.int64))
