"""The agent that is trained, how its observations are normalised, and how a training folder describes it."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from batchpilot.agents.evaluation import Decide, play
from batchpilot.agents.training.config import TrainingConfig
from batchpilot.agents.training.env import Normaliser
from batchpilot.agents.training.learner import PartedPPO
from batchpilot.agents.training.parts import Parts
from batchpilot.agents.training.ppo import PPOConfig
from batchpilot.core.actions import ActionTable
from batchpilot.core.extras import needing
from batchpilot.core.features import FEATURE_NAMES, FEATURE_VERSION
from batchpilot.core.files import write_json
from batchpilot.envs.scenarios import PreparedRun

with needing("training", "rl"):
    import torch
    from stable_baselines3 import PPO
    from stable_baselines3.common.logger import Logger
    from stable_baselines3.common.vec_env import VecEnv


MODEL_FILE, DESCRIPTION_FILE = "model.zip", "policy.json"
SCHEMA = 1

_ACTIVATIONS = {"tanh": torch.nn.Tanh, "relu": torch.nn.ReLU}
_ADAM_EPS = 1e-5
"""As stable-baselines3 has it where nothing else is asked for."""

_LEAST_STD = 0.1
"""Features are shares and ratios; one that hardly moved while observed must not be blown up when it does."""

_RANDOM_SHARE = 0.3
_ANY_TARGET_MS = 100.0


@dataclass(frozen=True)
class Normalisation:
    """How observations enter the network: (x - mean) / std; and the range that was seen.

    Attributes:
        mean: of each feature of each stacked window, oldest window first.
        std: standard deviations, likewise, at least 0.1.
        low: smallest value of each feature.
        high: largest value of each feature.
    """

    mean: list[float]
    std: list[float]
    low: list[float]
    high: list[float]


def observe(runs: Sequence[PreparedRun], table: ActionTable, config: TrainingConfig, seed: int) -> Normalisation:
    """Normalisation from playing runs with actions that are random three times in ten and stay otherwise.

    Args:
        runs: what to play.
        table: what actions mean.
        config: stack and decision interval.
        seed: of the random actions.
    """
    rng = np.random.default_rng(seed)
    stay = table.hold(table.start(_ANY_TARGET_MS))
    seen: list[NDArray[np.float32]] = []

    def wander(n: int) -> Decide:
        def decide(observations: NDArray[np.float32]) -> NDArray[np.int64]:
            seen.append(observations)
            moves = rng.integers(0, table.sizes, (n, len(table.sizes)))
            return np.where(rng.random(moves.shape) < _RANDOM_SHARE, moves, stay)

        return decide

    play(runs, table, wander, interval_ms=config.env_kwargs.decision_interval_ms)
    everything = np.concatenate(seen)
    k = config.frame_stack
    return Normalisation(
        mean=everything.mean(axis=0).astype(float).tolist() * k,
        std=np.maximum(everything.std(axis=0), _LEAST_STD).astype(float).tolist() * k,
        low=everything.min(axis=0).astype(float).tolist(),
        high=everything.max(axis=0).astype(float).tolist(),
    )


def new_agent(config: PPOConfig, env: VecEnv, seed: int, tensorboard: Path | None = None) -> PPO:
    """An untrained agent.

    Args:
        config: its hyperparameters.
        env: what it is trained on.
        seed: of weights, actions and batches.
        tensorboard: folder of its event files; None for none.
    """
    network = config.policy_kwargs
    algorithm = PartedPPO if isinstance(env, Parts) else PPO
    agent = algorithm(
        "MlpPolicy",
        env,
        learning_rate=config.learning_rate_at(0.0),
        n_steps=config.n_steps,
        batch_size=config.batch_size,
        n_epochs=config.n_epochs,
        gamma=config.gamma,
        gae_lambda=config.gae_lambda,
        clip_range=config.clip_range,
        ent_coef=config.ent_coef,
        vf_coef=config.vf_coef,
        max_grad_norm=config.max_grad_norm,
        target_kl=config.target_kl,
        policy_kwargs={
            "net_arch": list(network.net_arch),
            "activation_fn": _ACTIVATIONS[network.activation_fn],
            "optimizer_kwargs": {"eps": _ADAM_EPS, "fused": True},
        },
        tensorboard_log=None if tensorboard is None else str(tensorboard),
        seed=seed,
        device="cpu",
    )
    return without_stray_log(agent)


def without_stray_log(agent: PPO) -> PPO:
    """An agent that makes no folder for a log that nobody asked for, as stable-baselines3 does in the temporary one.

    Args:
        agent: as it was made or loaded; it is changed.
    """
    if agent.tensorboard_log is None:
        agent.set_logger(Logger(None, []))
    return agent


def prefer_staying(agent: PPO, table: ActionTable, bias: float) -> None:
    """Raise the logits of the actions that stay at the base, so that training begins there.

    Args:
        agent: untrained.
        table: what its actions mean.
        bias: by how much.
    """
    stay = table.hold(table.start(_ANY_TARGET_MS))
    firsts = np.concatenate([[0], np.cumsum(table.sizes)[:-1]])
    with torch.no_grad():
        agent.policy.action_net.bias[torch.as_tensor(firsts + stay)] += bias


def set_learning_rate(agent: PPO, learning_rate: float) -> None:
    """Train with another learning rate from now on.

    Args:
        agent: the agent.
        learning_rate: above 0.
    """
    agent.learning_rate = learning_rate
    agent._setup_lr_schedule()


def deterministic(agent: PPO, normalisation: Normalisation, config: TrainingConfig, n: int) -> Decide:
    """What an agent does with its likeliest actions, on raw observations; missing older windows are zeros.

    Args:
        agent: the agent.
        normalisation: its own.
        config: stack and clip.
        n: environments side by side.
    """
    normalise = Normaliser(normalisation.mean, normalisation.std, config.clip_obs)
    stacked = np.zeros((n, len(normalisation.mean)), np.float32)
    features = len(FEATURE_NAMES)

    def decide(observations: NDArray[np.float32]) -> NDArray[np.int64]:
        stacked[:, :-features] = stacked[:, features:].copy()
        stacked[:, -features:] = observations
        actions, _ = agent.predict(normalise(stacked), deterministic=True)
        return np.asarray(actions)

    return decide


def write_description(
    folder: Path, config: TrainingConfig, normalisation: Normalisation, training: dict[str, Any]
) -> Path:
    """Write `policy.json`, which says what the agent beside it reads, does and comes from.

    Args:
        folder: the training folder.
        config: the training file.
        normalisation: of the agent.
        training: configuration, seeds, revision, versions, scenarios and scores.

    Raises:
        OSError: the folder cannot be written to.
    """
    moments = asdict(normalisation)
    description = {
        "schema": SCHEMA,
        "track": config.env_kwargs.track,
        "table": config.env_kwargs.table().describe(),
        "feature_version": FEATURE_VERSION,
        "feature_names": list(FEATURE_NAMES),
        "stack": config.frame_stack,
        **{f"observation_{name}": values for name, values in moments.items()},
        "observation_clip": config.clip_obs,
        "decision_interval_ms": config.env_kwargs.decision_interval_ms,
        "training": training,
    }
    return write_json(folder / DESCRIPTION_FILE, description)
