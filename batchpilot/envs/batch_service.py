"""The batch-service queue as a Gymnasium environment: small enough that its optimum is known exactly."""

from __future__ import annotations

from typing import Any

import gymnasium
import numpy as np

from batchpilot.baselines.dispatch.batch_service import BatchServiceProblem, control_limit_policy
from batchpilot.baselines.dispatch.smdp import evaluate

DEFAULT_PROBLEM = BatchServiceProblem(400.0, [6.0 + size for size in range(1, 9)], 40)
"""Up to 8 requests in 6 ms and 1 ms a request, at 0.7 of the rate that full batches serve."""


class BatchServiceEnv(gymnasium.Env[np.int64, np.int64]):
    """Wait or serve, whenever the server is free; the truncated problem of `baselines.batch_service` to the letter.

    Observation: `Discrete(max_queue + 2)`, the requests waiting; the last is overflow.
    Action: `Discrete(max_batch + 1)`, the requests to dispatch; 0 waits for the next arrival. More than wait are taken
    as all that wait, and in overflow any action as the largest batch.

    Reward: -(cost - reference_cost x sojourn) / scale, where cost and sojourn are the expected ones of the action taken
    (given the queue, which is drawn) and the scale is `reference_cost` times the mean time between arrivals. Decisions
    differ in length, so the plain sum of costs would reward many short ones; with the mean cost g of a policy as the
    reference, another policy collects more than zero a step exactly if its mean cost is below g (Dinkelbach 1967). The
    default reference is the greedy policy's. It may be set between episodes: to the mean cost reached so far, it leads
    to the optimum of the mean cost.

    The info of a step holds `cost` and `sojourn_ms`; the sum of one over the sum of the other estimates
    `baselines.smdp.evaluate` of the policy played. Episodes never terminate; they are truncated after `decisions`.

    Args:
        problem: the queue; None for that of `DEFAULT_PROBLEM`.
        decisions: length of an episode, >= 1.
        reference_cost: mean cost that the reward is held against, > 0; None for the greedy policy's.

    Raises:
        ValueError: an argument is outside its bound.
    """

    metadata: dict[str, Any] = {"render_modes": []}  # noqa: RUF012  Gymnasium declares it so

    def __init__(
        self, problem: BatchServiceProblem | None = None, *, decisions: int = 1000, reference_cost: float | None = None
    ) -> None:
        problem = DEFAULT_PROBLEM if problem is None else problem
        if decisions < 1:
            raise ValueError(f"decisions is {decisions}; it must be >= 1")
        if reference_cost is None:
            reference_cost = evaluate(problem, control_limit_policy(problem))
        if not reference_cost > 0:
            raise ValueError(f"reference_cost is {reference_cost}; it must be above 0")
        self.problem = problem
        self.reference_cost = reference_cost
        self.observation_space = gymnasium.spaces.Discrete(problem.states)
        self.action_space = gymnasium.spaces.Discrete(problem.max_batch + 1)
        self._decisions = decisions
        self._costs, self._sojourn_ms = problem.costs, problem.sojourn_ms
        self._state, self._taken = 0, 0

    def reset(
        self, *, seed: int | None = None, options: dict[str, Any] | None = None
    ) -> tuple[np.int64, dict[str, Any]]:
        """Start an episode.

        Args:
            seed: of the arrivals; None goes on with the present generator.
            options: "queue" sets the first queue length, 0 to `max_queue + 1`; empty without it.

        Raises:
            ValueError: the queue is outside its bounds.
        """
        super().reset(seed=seed)
        queue = int((options or {}).get("queue", 0))
        if not 0 <= queue < self.problem.states:
            raise ValueError(f"queue is {queue}; it must be 0 to {self.problem.states - 1}")
        self._state, self._taken = queue, 0
        return np.int64(self._state), {}

    def step(self, action: np.int64 | int) -> tuple[np.int64, float, bool, bool, dict[str, Any]]:
        """Wait for an arrival, or serve a batch.

        Args:
            action: requests to dispatch, 0 to `max_batch`.

        Returns:
            Queue at the next decision, reward, False, whether the episode is over, and cost and sojourn.

        Raises:
            ValueError: the action is outside the space.
        """
        if not 0 <= action <= self.problem.max_batch:
            raise ValueError(f"action is {action}; it must be 0 to {self.problem.max_batch}")
        waiting = self.problem.waiting(self._state)
        overflow = self._state > self.problem.max_queue
        size = self.problem.max_batch if overflow else min(int(action), waiting)
        cost, sojourn_ms = float(self._costs[self._state, size]), float(self._sojourn_ms[size])
        arrivals = 1 if size == 0 else int(self.np_random.poisson(self.problem.arrivals_per_ms * sojourn_ms))
        self._state = min(waiting - size + arrivals, self.problem.max_queue + 1)
        self._taken += 1
        scale = self.reference_cost / self.problem.arrivals_per_ms
        reward = -(cost - self.reference_cost * sojourn_ms) / scale
        truncated = self._taken >= self._decisions
        return np.int64(self._state), reward, False, truncated, {"cost": cost, "sojourn_ms": sojourn_ms}
