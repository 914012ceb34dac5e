"""Does training work? PPO on the batch-service queue against its exact optimum; `python benchmarks/ppo_vs_smdp.py`.

Both policies are judged by the same exact evaluation of the mean cost (`baselines.smdp.evaluate`); PPO sees only the
environment, in short episodes that start from any queue length, so that rare queues are learned too. Training goes in
rounds: the reward of each is held against the mean cost that the last one reached (Dinkelbach), as `BatchServiceEnv`
explains. The last policy is the result; none is picked by the exact evaluation.
"""

from __future__ import annotations

import argparse
from typing import Any

import gymnasium
import numpy as np
import torch
from stable_baselines3 import PPO
from stable_baselines3.common.vec_env import DummyVecEnv, VecNormalize

from batchpilot.agents.training.config import load_ppo_config
from batchpilot.agents.training.policy import new_agent, set_learning_rate
from batchpilot.agents.training.ppo import PPOConfig
from batchpilot.baselines.dispatch.batch_service import (
    BatchServiceProblem,
    DispatchPolicy,
    control_limit_policy,
    dispatch_policy,
)
from batchpilot.baselines.dispatch.smdp import evaluate, optimal_policy
from batchpilot.envs.batch_service import BatchServiceEnv
from batchpilot.envs.registration import BATCH_SERVICE_ID

SIZES = np.arange(1, 17)
SERVICE_MS = tuple(10.0 + 1.0 * SIZES)
ENERGY_J = tuple(1.0 + 0.1 * SIZES)
LOADS = (0.3, 0.6, 0.85)
WITHIN = 1.02
EPISODE = 64


class AnyQueue(gymnasium.Wrapper):
    """Episodes start from a queue length drawn evenly."""

    def reset(self, *, seed: int | None = None, options: dict[str, Any] | None = None) -> tuple[Any, dict[str, Any]]:
        """Begin an episode."""
        self.env.reset(seed=seed)
        queue = int(self.unwrapped.np_random.integers(self.unwrapped.problem.states))
        return self.env.reset(options={"queue": queue})


def problem_at(load: float, energy_weight: float) -> BatchServiceProblem:
    """A queue whose arrivals are this share of what full batches could serve."""
    most_per_s = 1000.0 * SIZES[-1] / SERVICE_MS[-1]
    return BatchServiceProblem(
        load * most_per_s, SERVICE_MS, max_queue=60, energy_j=ENERGY_J, energy_weight=energy_weight
    )


def learned_policy(agent: PPO, problem: BatchServiceProblem) -> DispatchPolicy:
    """The likeliest action in every state, read as the environment reads it."""
    states = np.arange(problem.states)
    actions, _ = agent.predict(states, deterministic=True)
    waiting = np.minimum(states, problem.max_queue)
    sizes = np.minimum(actions, waiting)
    sizes[-1] = problem.max_batch
    return dispatch_policy(problem, sizes)


def train(problem: BatchServiceProblem, config: PPOConfig, seed: int, rounds: int) -> DispatchPolicy:
    """PPO in rounds, each against the mean cost that the environment showed for the policy so far."""
    envs = [BatchServiceEnv(problem, decisions=EPISODE) for _ in range(config.n_envs)]
    # Overflow costs hundreds of times what a usual decision does; the value network needs rewards of one size.
    vector = VecNormalize(
        DummyVecEnv([lambda env=env: AnyQueue(env) for env in envs]), norm_obs=False, gamma=config.gamma
    )
    vector.seed(seed)
    agent = new_agent(config, vector, seed)
    for number in range(rounds):
        set_learning_rate(agent, config.learning_rate_at(number / rounds))
        agent.learn(config.n_timesteps // rounds, reset_num_timesteps=False)
        reached = observed_cost(agent, problem, seed + number)
        for env in envs:
            env.reference_cost = min(env.reference_cost, reached)
    return learned_policy(agent, problem)


def observed_cost(agent: PPO, problem: BatchServiceProblem, seed: int, decisions: int = 5000) -> float:
    """Mean cost of the likeliest actions as one run of the environment shows it."""
    env, policy = BatchServiceEnv(problem, decisions=decisions), learned_policy(agent, problem)
    state, _ = env.reset(seed=seed)
    cost = sojourn_ms = 0.0
    for _ in range(decisions):
        state, _, _, _, told = env.step(policy.size(int(state)))
        cost, sojourn_ms = cost + told["cost"], sojourn_ms + told["sojourn_ms"]
    return cost / sojourn_ms


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--config", default="batch-service")
    parser.add_argument("--seeds", type=int, nargs="+", default=[0, 1, 2])
    parser.add_argument("--rounds", type=int, default=10)
    parser.add_argument("--loads", type=float, nargs="+", default=list(LOADS))
    parser.add_argument("--energy-weights", type=float, nargs="+", default=[0.0, 1.0])
    options = parser.parse_args()
    torch.set_num_threads(1)
    config = load_ppo_config(options.config, BATCH_SERVICE_ID)

    print(f"mean cost; {config.n_timesteps:,} decisions a seed")
    print(f"{'load':>5} {'energy':>6} {'seed':>4} {'greedy':>9} {'optimum':>9} {'PPO':>9} {'PPO/optimum':>12}")
    ratios = []
    for energy_weight in options.energy_weights:
        for load in options.loads:
            problem = problem_at(load, energy_weight)
            greedy, best = (
                evaluate(problem, policy) for policy in (control_limit_policy(problem), optimal_policy(problem))
            )
            for seed in options.seeds:
                cost = evaluate(problem, train(problem, config, seed, options.rounds))
                ratios.append(cost / best)
                figures = f"{greedy:9.3f} {best:9.3f} {cost:9.3f} {cost / best:12.4f}"
                print(f"{load:5.2f} {energy_weight:6.2f} {seed:4d} {figures}", flush=True)
    within = np.mean(np.array(ratios) <= WITHIN)
    print(f"median ratio {np.median(ratios):.4f}, worst {max(ratios):.4f}; within 2 % in {within:.0%} of {len(ratios)}")


if __name__ == "__main__":
    main()
