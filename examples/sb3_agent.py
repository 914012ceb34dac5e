"""An agent of your own: train it by plain stable-baselines3, export it, and judge the file (extra `rl`).

python examples/sb3_agent.py agent.onnx
batchpilot leaderboard --suite quick --tuners default,policy:agent.onnx
batchpilot submit agent.onnx
"""

from __future__ import annotations

import sys

import torch
from stable_baselines3 import PPO
from stable_baselines3.common.vec_env import VecNormalize

from batchpilot.agents.export.agent import export_agent
from batchpilot.agents.sb3 import BatchingVecEnv


def main(out: str = "agent.onnx", decisions: int = 100_000) -> None:
    """Train on the suite `train`, and write the policy.

    Args:
        out: the policy file.
        decisions: that it learns from.
    """
    env = VecNormalize(BatchingVecEnv(16, scenario="train-steady-chat-a100", track="limits"), norm_reward=False)
    agent = PPO("MlpPolicy", env, n_steps=64, batch_size=256, seed=0, device="cpu")
    agent.learn(decisions)
    exported = export_agent(agent, out, training={"script": "sb3_agent.py", "decisions": decisions})
    print(f"{exported.path}: decides as the agent does on {exported.checked} observations")


if __name__ == "__main__":
    torch.set_num_threads(1)  # nets this small take eleven times as long with two on busy cores
    main(*sys.argv[1:2])
