"""Does an exported policy decide as the trained one does? Three readings of it, on random and recorded observations.

The trained agent, the file as a server reads it, and the file as onnxruntime reads it must agree on every decision, but
where two actions are worth the same to within rounding: an agent that has hardly learned has such ties.
"""

from __future__ import annotations

from collections.abc import Callable

import numpy as np
from numpy.lib.stride_tricks import sliding_window_view

from batchpilot.core.extras import needing
from batchpilot.core.features import FEATURE_HIGH, FEATURE_LOW, FEATURE_NAMES
from batchpilot.envs.vector import BatchingVectorEnv
from batchpilot.tuners.policy.file import parse_policy
from batchpilot.tuners.policy.layout import ACTIONS, INPUT
from batchpilot.tuners.policy.network import Floats, Network

with needing("exporting a policy", "rl"):
    import onnxruntime


RANDOM = 2048
"""Observations drawn evenly from within the features' bounds, and as many on the bounds themselves."""

ROUNDING = 1e-5
"""Two logits that differ by less, of 1 plus the largest, are worth the same in single precision."""

RECORDED_STEPS = 96
RECORDED_ENVS = 8


def observations_to_check(stack: int, features: int = len(FEATURE_NAMES), seed: int = 0) -> Floats:
    """Observations that a policy is checked on: random ones, and windows of the quick scenarios under random limits.

    Args:
        stack: windows that the policy looks at.
        features: how many of them, F.
        seed: of every draw.

    Returns:
        Raw observations, oldest window first, shape (n, stack * F).
    """
    rng = np.random.default_rng(seed)
    shape = (RANDOM, stack * features)
    low, high = np.tile(FEATURE_LOW[:features], stack), np.tile(FEATURE_HIGH[:features], stack)
    inside = low + (high - low) * rng.random(shape)
    on_bounds = np.where(rng.random(shape) < 0.5, low, high)
    recorded = sliding_window_view(recorded_features(seed)[..., :features], stack, axis=0)
    stacked = recorded.transpose(0, 1, 3, 2).reshape(-1, shape[1])
    return np.concatenate([inside, on_bounds, stacked]).astype(np.float32)


def recorded_features(seed: int = 0) -> Floats:
    """Feature vectors of the quick scenarios under random limits.

    Args:
        seed: of scenarios, workloads and limits.

    Returns:
        Shape (steps, environments, F).
    """
    envs = BatchingVectorEnv(RECORDED_ENVS, scenario="quick", track="guarded")
    envs.action_space.seed(seed)
    features = [envs.reset(seed=seed)[0].copy()]
    features += [envs.step(envs.action_space.sample())[0].copy() for _ in range(RECORDED_STEPS - 1)]
    envs.close()
    return np.array(features)


def check_decisions(data: bytes, trained: Callable[[Floats], np.ndarray], observations: Floats) -> None:
    """Refuse a file that does not decide as the trained policy does.

    Args:
        data: the whole file.
        trained: gives the trained policy's actions, shape (n, fields).
        observations: raw, shape (n, k * F).

    Raises:
        ValueError: the file cannot be read back, or a decision differs; the message says how many and shows the first.
    """
    network = parse_policy(data).network
    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads = options.inter_op_num_threads = 1
    session = onnxruntime.InferenceSession(data, options, providers=["CPUExecutionProvider"])
    expected = trained(observations)
    readings = {
        "batchpilot": np.array([network.decide(observation) for observation in observations]),
        "onnxruntime": session.run([ACTIONS], {INPUT: observations})[0],
    }
    for reader, actions in readings.items():
        differs = [
            i
            for i in np.flatnonzero((actions != expected).any(axis=1))
            if not _tied(network, observations[i], expected[i])
        ]
        if differs:
            first = differs[0]
            raise ValueError(
                f"the exported policy, read by {reader}, decides otherwise than the trained one on {len(differs)} of "
                f"{len(observations)} observations; on observation {first} {actions[first].tolist()} instead of "
                f"{expected[first].tolist()}; nothing was written"
            )


def _tied(network: Network, observation: Floats, expected: np.ndarray) -> bool:
    """Whether the expected actions are as good as the best ones, but for rounding."""
    parts = np.split(network.logits(observation), np.cumsum(network.sizes)[:-1])
    return all(
        part.max() - part[action] <= ROUNDING * (1.0 + np.abs(part).max())
        for part, action in zip(parts, expected, strict=True)
    )
