"""PPO in one file, in the manner of CleanRL, on the native vector environment; ends in a policy file (extra `rl`).

python examples/cleanrl_ppo.py agent.onnx
batchpilot submit agent.onnx
"""

from __future__ import annotations

import sys

import gymnasium
import torch
from torch import nn

import batchpilot.envs  # noqa: F401  registers the ids
from batchpilot.agents.export.agent import export_actor

ENV, ROWS, STEPS, EPOCHS, BATCHES = "batchpilot/limits-train-v1", 16, 64, 4, 4
GAMMA, LAMBDA, CLIP, ENTROPY, RATE = 0.98, 0.95, 0.2, 0.005, 5e-4


def network(inputs: int, outputs: int, gain: float) -> nn.Sequential:
    """Two hidden layers of 64; the last layer starts small where the policy should start out even."""
    layers = [nn.Linear(inputs, 64), nn.Tanh(), nn.Linear(64, 64), nn.Tanh(), nn.Linear(64, outputs)]
    for layer in layers[::2]:
        nn.init.orthogonal_(layer.weight, gain if layer is layers[-1] else 2**0.5)
        nn.init.zeros_(layer.bias)
    return nn.Sequential(*layers)


def judged(logits: torch.Tensor, actions: torch.Tensor, sizes: list[int]) -> tuple[torch.Tensor, torch.Tensor]:
    """Log-probability and entropy of actions, summed over the limits."""
    choices = [torch.distributions.Categorical(logits=part) for part in logits.split(sizes, dim=-1)]
    told = [(choice.log_prob(actions[..., k]), choice.entropy()) for k, choice in enumerate(choices)]
    return sum(one for one, _ in told), sum(one for _, one in told)


def sampled(logits: torch.Tensor, sizes: list[int]) -> torch.Tensor:
    """An action a limit, drawn."""
    return torch.stack(
        [torch.distributions.Categorical(logits=part).sample() for part in logits.split(sizes, dim=-1)], dim=-1
    )


def main(out: str, decisions: int = 100_000, seed: int = 0) -> None:
    """Train, print the share served within SLO of the episodes that end, and write the policy.

    Args:
        out: the policy file.
        decisions: that it learns from.
        seed: of the environment, the weights and the actions drawn.
    """
    torch.manual_seed(seed)
    envs = gymnasium.make_vec(ENV, ROWS, vectorization_mode="vector_entry_point", autoreset_mode="SameStep")
    sizes = envs.single_action_space.nvec.tolist()
    features = envs.single_observation_space.shape[0]
    actor, critic = network(features, sum(sizes), 0.01), network(features, 1, 1.0)
    optimiser = torch.optim.Adam([*actor.parameters(), *critic.parameters()], lr=RATE, eps=1e-5)
    seen = torch.as_tensor(envs.reset(seed=seed)[0])
    for update in range(max(decisions // (ROWS * STEPS), 1)):
        shares, steps = [], []
        for _ in range(STEPS):
            with torch.no_grad():
                actions = sampled(actor(seen), sizes)
                log_prob, _ = judged(actor(seen), actions, sizes)
            following, rewards, terminated, truncated, infos = envs.step(actions.numpy())
            over = torch.as_tensor(terminated | truncated).float()
            steps.append((seen, actions, log_prob, torch.as_tensor(rewards).float(), over))
            seen = torch.as_tensor(following)
            if "final_info" in infos:
                told = infos["final_info"]["episode"]
                shares += told["goodput_fraction"][told["_goodput_fraction"]].tolist()
        observed, taken, before, gained, ended = (torch.stack(column) for column in zip(*steps, strict=True))
        with torch.no_grad():
            values, after = critic(observed).squeeze(-1), critic(seen).squeeze(-1)
        advantages, running = torch.zeros_like(gained), torch.zeros(ROWS)
        for t in reversed(range(STEPS)):
            ahead = after if t == STEPS - 1 else values[t + 1]
            going = 1.0 - ended[t]
            running = gained[t] + GAMMA * ahead * going - values[t] + GAMMA * LAMBDA * going * running
            advantages[t] = running
        flat = [part.flatten(0, 1) for part in (observed, taken, before, advantages, advantages + values)]
        for _ in range(EPOCHS):
            for some in torch.randperm(ROWS * STEPS).chunk(BATCHES):
                obs, acts, old, advantage, target = (part[some] for part in flat)
                new, entropy = judged(actor(obs), acts, sizes)
                advantage = (advantage - advantage.mean()) / (advantage.std() + 1e-8)
                ratio = (new - old).exp()
                gain = torch.min(ratio * advantage, ratio.clamp(1 - CLIP, 1 + CLIP) * advantage).mean()
                loss = -gain - ENTROPY * entropy.mean() + 0.5 * (critic(obs).squeeze(-1) - target).square().mean()
                optimiser.zero_grad()
                loss.backward()
                nn.utils.clip_grad_norm_([*actor.parameters(), *critic.parameters()], 0.5)
                optimiser.step()
        if shares:
            print(f"update {update}: {len(shares)} episodes ended, share within SLO {sum(shares) / len(shares):.3f}")
    exported = export_actor(actor, envs.table, out, training={"script": "cleanrl_ppo.py", "seed": seed})
    print(f"{exported.path}: decides as the agent does on {exported.checked} observations")


if __name__ == "__main__":
    torch.set_num_threads(1)  # nets this small take eleven times as long with two on busy cores
    main(*sys.argv[1:2])
