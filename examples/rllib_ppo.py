"""PPO of RLlib, its returns printed by iteration (`pip install 'ray[rllib]==2.60.0' torch`).

python examples/rllib_ppo.py 10
"""

from __future__ import annotations

import sys
from typing import Any

import gymnasium
from ray.rllib.algorithms.ppo import PPOConfig
from ray.tune.registry import register_env

ENV = "batchpilot/limits-train-v1"


def make(config: Any) -> gymnasium.Env:
    """The environment, made where a worker runs: the id brings the import."""
    return gymnasium.make(f"batchpilot.envs:{ENV}", episode_key=None, **config)


def main(iterations: int = 10, runners: int = 1, batch: int = 4000) -> int:
    """Train, and return how many decisions the network has learned from, each as often as there were epochs.

    Args:
        iterations: of collecting and learning.
        runners: processes that collect; 0 collects here.
        batch: decisions an iteration.
    """
    register_env("batching", make)
    config = (
        PPOConfig()
        .environment("batching", env_config={})
        .env_runners(num_env_runners=runners, num_envs_per_env_runner=4)
        .training(train_batch_size_per_learner=batch, minibatch_size=min(batch, 256), num_epochs=4, lr=5e-4, gamma=0.98)
    )
    algorithm = config.build_algo()
    learned = 0
    for iteration in range(iterations):
        result = algorithm.train()
        told = float(result["env_runners"].get("episode_return_mean", float("nan")))
        learned += int(result["learners"]["default_policy"]["num_module_steps_trained"])
        print(f"iteration {iteration}: mean return {told:.3f}, learned from {learned:,} decisions")
    algorithm.stop()
    return learned


if __name__ == "__main__":
    main(*map(int, sys.argv[1:2]))
