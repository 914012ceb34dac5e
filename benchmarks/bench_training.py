"""How fast PPO trains, and where the time goes; `python benchmarks/bench_training.py`.

One rollout and its update again and again: decisions a second end to end, and the share of the time in the environment
(the mean of the threads that step its parts), in the rest of playing, which is mostly the policy, and in the update.
"""

from __future__ import annotations

import argparse
import time
from collections.abc import Callable
from typing import Any

import torch

from batchpilot.agents.training.config import load_training_config, training_names
from batchpilot.agents.training.policy import new_agent, observe
from batchpilot.agents.training.pool import training_pool
from batchpilot.agents.training.run import training_env


class Stopwatch:
    """Seconds within a function, summed over its calls."""

    def __init__(self, timed: Callable[..., Any]) -> None:
        self.seconds = 0.0
        self._timed = timed

    def __call__(self, *args: Any, **kwargs: Any) -> Any:
        """Call the function."""
        start = time.perf_counter()
        try:
            return self._timed(*args, **kwargs)
        finally:
            self.seconds += time.perf_counter() - start


def main() -> None:
    generalists = [name for name in training_names() if name != "batch-service"]
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--config", default="guarded", choices=generalists)
    parser.add_argument("--rollouts", type=int, default=5)
    parser.add_argument("--rows", type=int, nargs="+", default=[64, 128, 256])
    options = parser.parse_args()
    torch.set_num_threads(1)
    shipped = load_training_config(options.config)
    normalisation = observe(training_pool(shipped.changed(pool=16), 0, 0).runs, shipped.env_kwargs.table(), shipped, 0)

    print(f"{'rows':>5} {'decisions/s':>12} {'prepare s':>10} {'environment':>12} {'policy':>8} {'update':>7}")
    for rows in options.rows:
        config = shipped.changed(n_envs=rows)
        start = time.perf_counter()
        env = training_env(config, 0, 0, normalisation)
        prepared = time.perf_counter() - start
        agent = new_agent(config, env, 0)
        agent.learn(rows * config.n_steps)
        stepping = [Stopwatch(part.step_wait) for part in env.parts]
        for part, timed in zip(env.parts, stepping, strict=True):
            part.step_wait = timed
        agent.train = updating = Stopwatch(agent.train)
        start = time.perf_counter()
        agent.learn(options.rollouts * rows * config.n_steps, reset_num_timesteps=False)
        total = time.perf_counter() - start
        rate = options.rollouts * rows * config.n_steps / total
        environment = sum(timed.seconds for timed in stepping) / len(stepping) / total
        update = updating.seconds / total
        shares = f"{environment:12.0%} {1.0 - environment - update:8.0%} {update:7.0%}"
        print(f"{rows:5d} {rate:12,.0f} {prepared:10.1f} {shares}", flush=True)


if __name__ == "__main__":
    main()
