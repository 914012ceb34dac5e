"""A training folder as `batchpilot train` leaves it: `model.zip` beside `policy.json`. Needs the extra `rl`.

Only open folders of your own: stable-baselines3 unpickles parts of `model.zip`. The exported file holds nothing of it.
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from batchpilot.agents.export.network import trained_network
from batchpilot.core.extras import needing
from batchpilot.tuners.policy.description import (
    PolicyDescription,
    check_features,
    read_interval,
    read_mapping,
    read_number,
    read_numbers,
    read_table,
    read_whole,
)
from batchpilot.tuners.policy.network import Floats, Network

with needing("exporting a policy", "rl"):
    from stable_baselines3 import PPO


SCHEMA = 1
MODEL_FILE, DESCRIPTION_FILE = "model.zip", "policy.json"
KEYS = (
    "schema",
    "track",
    "table",
    "feature_version",
    "feature_names",
    "stack",
    "observation_mean",
    "observation_std",
    "observation_clip",
    "decision_interval_ms",
    "training",
)


@dataclass(frozen=True, eq=False)
class TrainedPolicy:
    """A policy as it was trained.

    Attributes:
        agent: the stable-baselines3 agent, which reads normalised observations.
        network: the same as plain arrays, which reads raw ones.
        description: what it is and where it comes from.
    """

    agent: PPO
    network: Network
    description: PolicyDescription

    def decide(self, observations: Floats) -> np.ndarray:
        """What the agent itself does, deterministically.

        Args:
            observations: raw, shape (n, k * F).

        Returns:
            Actions, shape (n, fields).
        """
        network = self.network
        normalised = np.clip((observations - network.mean) / network.std, -network.clip, network.clip)
        actions, _ = self.agent.predict(normalised.astype(np.float32), deterministic=True)
        return np.asarray(actions)


def load_training(folder: str | Path) -> TrainedPolicy:
    """Read a training folder.

    Args:
        folder: holds `model.zip` and `policy.json`.

    Raises:
        ValueError: a key is missing or wrong, or agent and description do not belong together.
        OSError: a file is missing.
    """
    folder = Path(folder)
    for name in (MODEL_FILE, DESCRIPTION_FILE):
        if not (folder / name).is_file():
            raise FileNotFoundError(f"{folder} holds no {name}; give the folder that batchpilot train wrote")
    try:
        told = _plain(json.loads((folder / DESCRIPTION_FILE).read_text()))
        description = _description(told)
        mean, std = (np.array(read_numbers(key, told[key]), np.float32) for key in _MOMENTS)
        clip = read_number("observation_clip", told["observation_clip"])
    except ValueError as error:
        raise ValueError(f"{folder / DESCRIPTION_FILE}: {error}") from None
    agent = PPO.load(folder / MODEL_FILE, device="cpu")
    network = trained_network(agent.policy, mean, std, clip)
    expected = description.stack * len(description.feature_names)
    if network.inputs != expected or network.sizes != description.table.sizes:
        raise ValueError(
            f"{folder}: the agent maps {network.inputs} numbers to {list(network.sizes)} actions; "
            f"{DESCRIPTION_FILE} describes {expected} and {list(description.table.sizes)}"
        )
    return TrainedPolicy(agent, network, description)


_MOMENTS = ("observation_mean", "observation_std")


def _plain(told: object) -> dict[str, Any]:
    if not isinstance(told, dict):
        raise ValueError(f"a mapping is needed, not a {type(told).__name__}")
    missing = [key for key in KEYS if key not in told]
    if missing:
        raise ValueError(f"lacks {', '.join(missing)}")
    if told["schema"] != SCHEMA:
        raise ValueError(f"its schema is {told['schema']!r}; this version reads {SCHEMA}")
    return told


def _description(told: Mapping[str, Any]) -> PolicyDescription:
    version = check_features(told["feature_version"], told["feature_names"])
    low, high = _range(told, len(told["feature_names"]))
    return PolicyDescription(
        track=told["track"],
        table=read_table(told["table"]),
        stack=read_whole("stack", told["stack"]),
        decision_interval_ms=read_interval(told["decision_interval_ms"]),
        observation_low=low,
        observation_high=high,
        training=read_mapping("training", told["training"]),
        feature_version=version,
    )


def _range(told: Mapping[str, Any], features: int) -> tuple[tuple[float, ...], tuple[float, ...]]:
    """Lowest and highest value of each feature in training, over all stacked windows; empty when not recorded."""
    ranges = []
    for key, outermost in (("observation_low", np.min), ("observation_high", np.max)):
        values = np.array(read_numbers(key, told.get(key, [])))
        if values.size % features:
            raise ValueError(f"{key} has {values.size} values, which is no multiple of {features} features")
        rows = values.reshape(-1, features)
        ranges.append(tuple(outermost(rows, axis=0).tolist()) if len(rows) else ())
    return ranges[0], ranges[1]
