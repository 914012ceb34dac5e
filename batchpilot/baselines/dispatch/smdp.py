"""The optimum of the batch-service queue, and the exact mean cost of any policy of it.

The paper turns the semi-Markov process into a discrete-time one and runs relative value iteration. We solve the same
average-cost equations by policy iteration (Howard 1960; Puterman 1994, section 11.4): each round is one linear solve,
and it ends at the exact optimum of the truncated problem after a handful of rounds, without a step size to choose.

Source: arXiv 2301.12865 and 2501.02181, as in `batch_service`.
"""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

from batchpilot.baselines.dispatch.batch_service import (
    BatchServiceProblem,
    DispatchPolicy,
    control_limit_policy,
    dispatch_policy,
)

_RELATIVE_TOLERANCE = 1e-11


def optimal_policy(problem: BatchServiceProblem) -> DispatchPolicy:
    """The dispatch policy with the least mean cost.

    Args:
        problem: the queue.

    Returns:
        The optimum of the truncated problem; among equals the one nearest to serving greedily.
    """
    policy = control_limit_policy(problem)
    while True:
        cost, bias = _mean_cost_and_bias(problem, policy)
        better = _improved(problem, policy, cost, bias)
        if np.array_equal(better.dispatch, policy.dispatch):
            return policy
        policy = better


def evaluate(problem: BatchServiceProblem, policy: DispatchPolicy) -> float:
    """Mean cost of a policy, exactly for the truncated problem.

    Args:
        problem: the queue.
        policy: what is dispatched in each state.

    Returns:
        `latency_weight` x mean response time in ms + `energy_weight` x mean power in W + the cost of overflow.

    Raises:
        ValueError: the policy cannot be played in this problem; the message names the state.
    """
    played = dispatch_policy(problem, policy.dispatch).dispatch
    states = np.arange(problem.states)
    visits = _visits(problem.transitions[played, np.minimum(states, problem.max_queue) - played])
    return float(visits @ problem.costs[states, played] / (visits @ problem.sojourn_ms[played]))


def _visits(transitions: NDArray[np.float64]) -> NDArray[np.float64]:
    """How often each state is visited in the long run, up to a factor; the last one can be reached from all.

    A linear solve loses all its digits where a policy hardly ever leaves some states for others. Eliminating states one
    by one without a subtraction loses none (Grassmann, Taksar and Heyman 1985), the last state at the end. A state that
    leads to none of those left, as far as doubles tell, is where the long run takes place.
    """
    p = transitions[::-1, ::-1].copy()
    first = len(p) - 1
    while first > 0 and (leaves := p[first, :first].sum()) > 0:
        p[:first, first] /= leaves
        p[:first, :first] += np.outer(p[:first, first], p[first, :first])
        first -= 1
    visits = np.zeros(len(p))
    visits[first] = 1.0
    for k in range(first + 1, len(p)):
        visits[k] = visits[:k] @ p[:k, k]
        visits[: k + 1] /= max(visits[k], 1.0)
    return visits[::-1]


def _mean_cost_and_bias(problem: BatchServiceProblem, policy: DispatchPolicy) -> tuple[float, NDArray[np.float64]]:
    """Solve bias(s) = cost(s) - mean * sojourn(s) + sum_j P(j | s) bias(j), with bias(0) = 0.

    Overflow can be reached from every state, so there is one recurrent class and one solution. Policies that improve on
    control limits are far from the ones that `_visits` is for.
    """
    states = np.arange(problem.states)
    left = np.minimum(states, problem.max_queue) - policy.dispatch
    equations = np.eye(problem.states) - problem.transitions[policy.dispatch, left]
    equations[:, 0] = problem.sojourn_ms[policy.dispatch]
    solution = np.asarray(np.linalg.solve(equations, problem.costs[states, policy.dispatch]), np.float64)
    mean = float(solution[0])
    solution[0] = 0.0
    return mean, solution


def _improved(
    problem: BatchServiceProblem, policy: DispatchPolicy, mean: float, bias: NDArray[np.float64]
) -> DispatchPolicy:
    """The greedy policy of the bias; a state keeps its action unless another is better by more than rounding."""
    states = np.arange(problem.states)[:, None]
    sizes = np.arange(problem.max_batch + 1)
    left = np.minimum(states, problem.max_queue) - sizes
    onward = problem.transitions @ bias
    value = problem.costs - mean * problem.sojourn_ms + onward[sizes, np.maximum(left, 0)]
    best = value.argmin(axis=1)
    present = value[states[:, 0], policy.dispatch]
    rounding = _RELATIVE_TOLERANCE * (1.0 + np.abs(bias).max())
    better = value[states[:, 0], best] < present - rounding
    return DispatchPolicy(np.where(better, best, policy.dispatch).astype(np.int64))
