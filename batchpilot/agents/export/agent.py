"""Export: an agent that was trained by any script in, one checked policy file out. Needs the extra `rl`."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np

from batchpilot.agents.export.check import observations_to_check
from batchpilot.agents.export.export import Exported, write_checked
from batchpilot.agents.export.network import layers_network, trained_network
from batchpilot.core.actions import ActionTable
from batchpilot.core.extras import needing
from batchpilot.core.features import FEATURE_NAMES
from batchpilot.core.limits import TRACKS
from batchpilot.tuners.policy.description import PolicyDescription
from batchpilot.tuners.policy.network import Floats, Network

with needing("exporting a policy", "rl"):
    import torch
    from stable_baselines3.common.base_class import BaseAlgorithm
    from stable_baselines3.common.vec_env import VecEnv, VecFrameStack, VecNormalize
    from stable_baselines3.common.vec_env.base_vec_env import VecEnvWrapper


NO_CLIP = 1e9
"""Stands for "not clipped" where inputs are not normalised."""


def export_agent(
    agent: BaseAlgorithm,
    out: str | Path,
    *,
    track: str | None = None,
    training: Mapping[str, Any] | None = None,
    overwrite: bool = False,
) -> Exported:
    """Write a stable-baselines3 agent as one file that a server can load.

    What it was trained behind is read from its environment: the action table, `VecNormalize`, `VecFrameStack`.

    Args:
        agent: with an actor-critic `MlpPolicy` (PPO, A2C), trained in `BatchingEnv` or `BatchingVecEnv`.
        out: where to write, by custom with the suffix `.onnx`.
        track: in which it competes; None for the one whose limits it moves.
        training: where it comes from, anything that JSON can hold.
        overwrite: whether a file that is there may be replaced.

    Raises:
        ValueError: it has no such environment or policy, decides otherwise when exported, or the file is there.
        OSError: the file cannot be written.
    """
    env = agent.get_env()
    if env is None:
        raise ValueError("the agent has no environment, which tells what its actions mean; give it one by set_env")
    table, stack, mean, std, clip = _seen_through(env)
    network = trained_network(agent.policy, mean, std, clip)

    def decide(observations: Floats) -> np.ndarray:
        normalised = np.clip((observations - mean) / std, -clip, clip).astype(np.float32)
        return np.asarray(agent.predict(normalised, deterministic=True)[0])

    return _written(network, decide, table, stack, track, training, out, overwrite)


def export_actor(
    actor: torch.nn.Sequential,
    table: ActionTable,
    out: str | Path,
    *,
    stack: int = 1,
    track: str | None = None,
    training: Mapping[str, Any] | None = None,
    overwrite: bool = False,
) -> Exported:
    """Write a network of your own as one file that a server can load.

    Args:
        actor: linear layers with Tanh or ReLU between them, from the features of `stack` windows, oldest first, to one
            logit an action: those of the first limit, of the second, and so on.
        table: what its actions mean: attribute `table` of the environment that it was trained in.
        out: where to write, by custom with the suffix `.onnx`.
        stack: windows that it looks at.
        track: in which it competes; None for the one whose limits it moves.
        training: where it comes from, anything that JSON can hold.
        overwrite: whether a file that is there may be replaced.

    Raises:
        ValueError: its layers are others or do not fit the table, or the file is there.
        OSError: the file cannot be written.
    """
    features = stack * len(FEATURE_NAMES)
    network = layers_network(
        list(actor), table.sizes, np.zeros(features, np.float32), np.ones(features, np.float32), NO_CLIP
    )

    def decide(observations: Floats) -> np.ndarray:
        with torch.no_grad():
            logits = actor(torch.as_tensor(observations)).numpy()
        parts = np.split(logits, np.cumsum(table.sizes)[:-1], axis=1)
        return np.stack([part.argmax(axis=1) for part in parts], axis=1)

    return _written(network, decide, table, stack, track, training, out, overwrite)


def _written(
    network: Network,
    decide: Any,
    table: ActionTable,
    stack: int,
    track: str | None,
    training: Mapping[str, Any] | None,
    out: str | Path,
    overwrite: bool,
) -> Exported:
    description = PolicyDescription(track or _track_of(table), table, stack, training=dict(training or {}))
    return write_checked(network, description, decide, out, overwrite, observations_to_check(stack))


def _seen_through(env: VecEnv) -> tuple[ActionTable, int, Floats, Floats, float]:
    """Action table, windows stacked, mean, standard deviation and clip of what an agent sees of an environment."""
    stack, clip = 1, NO_CLIP
    mean, std = np.zeros(len(FEATURE_NAMES)), np.ones(len(FEATURE_NAMES))
    # From the innermost wrapper outwards, as observations come.
    wrappers: list[VecEnvWrapper] = []
    while isinstance(env, VecEnvWrapper):
        wrappers.insert(0, env)
        env = env.venv
    for wrapper in wrappers:
        if isinstance(wrapper, VecFrameStack):
            windows = wrapper.stacked_obs.n_stack
            stack *= windows
            mean, std = np.tile(mean, windows), np.tile(std, windows)
        elif isinstance(wrapper, VecNormalize) and wrapper.norm_obs:
            if clip != NO_CLIP:
                raise ValueError("the agent sees observations that are normalised twice; take one VecNormalize away")
            mean, clip = wrapper.obs_rms.mean, wrapper.clip_obs
            std = np.sqrt(wrapper.obs_rms.var + wrapper.epsilon)
    try:
        table = env.get_attr("table")[0]
    except AttributeError:
        raise ValueError(
            "the agent's environment has no action table; train in BatchingEnv or BatchingVecEnv"
        ) from None
    return table, stack, mean.astype(np.float32), std.astype(np.float32), float(clip)


def _track_of(table: ActionTable) -> str:
    for track, fields in TRACKS.items():
        if tuple(fields) == tuple(table.fields):
            return track
    raise ValueError(f"no track moves {', '.join(table.fields)}; say in which it competes: {', '.join(TRACKS)}")
