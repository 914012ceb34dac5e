"""Rewards of measurement windows: shares of what the engine could do, so that they mean the same on every device."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np
from numpy.typing import NDArray

from batchpilot.configs.tuner import TunerConfig
from batchpilot.core.names import lookup

Reward = Callable[[NDArray[Any]], NDArray[np.float64]]
"""From windows, records of `core.metrics.METRICS` of shape (n,), to their rewards, shape (n,)."""

_WEIGHTS = TunerConfig()


def goodput(metrics: NDArray[Any]) -> NDArray[np.float64]:
    """Tokens per second of requests that met their SLO, over the engine's estimated peak.

    Args:
        metrics: records of `core.metrics.METRICS`, shape (n,).

    Returns:
        Rewards >= 0, shape (n,): around 1 at the peak, above it where requests finish that ran in earlier windows; 0
        where the peak is not known.
    """
    return _share(metrics["goodput_tokens_per_s"], metrics["peak_tokens_per_s"])


def score(metrics: NDArray[Any]) -> NDArray[np.float64]:
    """The tuner document's score with its default weights: 0.5 throughput, 0.3 utilisation, 0.2 memory efficiency.

    Throughput is that of step time over the engine's estimated peak, as the probe tuner measures it; memory efficiency
    is 1 - (peak - used) / peak, 1 where memory is not reported.

    Args:
        metrics: records of `core.metrics.METRICS`, shape (n,).

    Returns:
        Rewards between 0 and 1, shape (n,); 0 for a window without a token.

    Source: dynamic batch tuner document, score; the normalisation is ours.
    """
    busy = 1000.0 * _share(metrics["generated_tokens"], metrics["busy_ms"])
    throughput = np.minimum(_share(busy, metrics["peak_tokens_per_s"]), 1.0)
    efficiency = np.where(
        metrics["memory_peak_mb"] > 0, _share(metrics["memory_used_mb"], metrics["memory_peak_mb"]), 1.0
    )
    total = (
        _WEIGHTS.throughput_weight * throughput
        + _WEIGHTS.gpu_utilization_weight * np.minimum(metrics["utilisation"], 1.0)
        + _WEIGHTS.memory_efficiency_weight * np.minimum(efficiency, 1.0)
    )
    return np.where(metrics["generated_tokens"] > 0, total, 0.0)


def _share(part: NDArray[np.float64], whole: NDArray[np.float64]) -> NDArray[np.float64]:
    """Part over whole, 0 where the whole is not above 0."""
    return np.divide(part, whole, out=np.zeros(len(part)), where=whole > 0)


class OwnReward:
    """A reward of the user's own, held to its contract.

    Args:
        reward: the function.
    """

    def __init__(self, reward: Reward) -> None:
        self._reward = reward

    def __call__(self, metrics: NDArray[Any]) -> NDArray[np.float64]:
        """Rewards of windows.

        Args:
            metrics: records of `core.metrics.METRICS`, shape (n,).

        Raises:
            ValueError: it gave another shape, or what is not a finite number.
        """
        rewards = np.asarray(self._reward(metrics))
        if rewards.shape != metrics.shape or rewards.dtype.kind not in "biuf" or not np.isfinite(rewards).all():
            raise ValueError(
                f"the reward gave {rewards!r} for records of shape {metrics.shape}; it must give one finite number each"
            )
        return rewards.astype(np.float64)


def make_reward(reward: str | Reward) -> Reward:
    """A reward by name, or the user's own.

    Args:
        reward: one of `REWARDS`, or a function from windows to rewards, which must be picklable where environments are.

    Raises:
        ValueError: no such name.
    """
    return OwnReward(reward) if callable(reward) else lookup(REWARDS, reward, "reward")


REWARDS: dict[str, Reward] = {"goodput": goodput, "score": score}
"""Rewards by name."""
