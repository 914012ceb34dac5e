"""PPO of skrl on the native vector environment, ending in a policy file (extra `rl`, and `pip install skrl==2.1.1`).

python examples/skrl_ppo.py agent.onnx
batchpilot submit agent.onnx
"""

from __future__ import annotations

import sys
from typing import Any

import gymnasium
import torch
from skrl.agents.torch.ppo import PPO
from skrl.envs.wrappers.torch import wrap_env
from skrl.memories.torch import RandomMemory
from skrl.models.torch import DeterministicMixin, Model, MultiCategoricalMixin
from skrl.trainers.torch import SequentialTrainer
from torch import nn

import batchpilot.envs  # noqa: F401  registers the ids
from batchpilot.agents.export.agent import export_actor

ENV, ROWS, STEPS = "batchpilot/limits-train-v1", 16, 64


def network(inputs: int, outputs: int) -> nn.Sequential:
    """Two hidden layers of 64."""
    return nn.Sequential(nn.Linear(inputs, 64), nn.Tanh(), nn.Linear(64, 64), nn.Tanh(), nn.Linear(64, outputs))


class Actor(MultiCategoricalMixin, Model):
    """One logit an action, those of the first limit first."""

    def __init__(self, spaces: dict[str, Any]) -> None:
        Model.__init__(self, **spaces)
        MultiCategoricalMixin.__init__(self)
        self.net = network(self.num_observations, self.num_actions)

    def compute(self, inputs: dict[str, torch.Tensor], role: str) -> tuple[torch.Tensor, dict[str, Any]]:
        """Logits of observations."""
        return self.net(inputs["observations"]), {}


class Critic(DeterministicMixin, Model):
    """The value of a state."""

    def __init__(self, spaces: dict[str, Any]) -> None:
        Model.__init__(self, **spaces)
        DeterministicMixin.__init__(self)
        self.net = network(self.num_observations, 1)

    def compute(self, inputs: dict[str, torch.Tensor], role: str) -> tuple[torch.Tensor, dict[str, Any]]:
        """Values of observations."""
        return self.net(inputs["observations"]), {}


def main(out: str, decisions: int = 100_000) -> None:
    """Train, and write the policy.

    Args:
        out: the policy file.
        decisions: that it learns from.
    """
    envs = gymnasium.make_vec(ENV, ROWS, vectorization_mode="vector_entry_point")
    env = wrap_env(envs, wrapper="gymnasium", verbose=False)
    spaces = {"observation_space": env.observation_space, "action_space": env.action_space, "device": "cpu"}
    models = {"policy": Actor(spaces), "value": Critic(spaces)}
    memory = RandomMemory(memory_size=STEPS, num_envs=ROWS, device="cpu")
    cfg = {"rollouts": STEPS, "learning_epochs": 4, "mini_batches": 4, "learning_rate": 5e-4, "discount_factor": 0.98}
    cfg |= {"experiment": {"write_interval": 0, "checkpoint_interval": 0}}
    agent = PPO(models=models, memory=memory, cfg=cfg, **spaces)
    timesteps = max(decisions // ROWS, STEPS)
    trainer = {"timesteps": timesteps, "headless": True, "close_environment_at_exit": False}
    SequentialTrainer(cfg=trainer, env=env, agents=agent).train()
    actor = models["policy"].net
    exported = export_actor(actor, envs.table, out, training={"script": "skrl_ppo.py", "decisions": decisions})
    print(f"{exported.path}: decides as the agent does on {exported.checked} observations")


if __name__ == "__main__":
    torch.set_num_threads(1)  # nets this small take eleven times as long with two on busy cores
    main(*sys.argv[1:2])
