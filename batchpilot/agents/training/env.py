"""What PPO sees while it trains: rewards against the base limits on the same requests, and normalised observations."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
from gymnasium import spaces
from numpy.typing import NDArray

from batchpilot.agents.evaluation import Played
from batchpilot.agents.sb3 import BatchingVecEnv
from batchpilot.core.extras import needing
from batchpilot.core.features import FEATURE_NAMES

with needing("training", "rl"):
    from stable_baselines3.common.vec_env import VecEnv, VecEnvWrapper


Run = tuple[str, int]
"""Scenario and workload seed."""

Infos = list[dict[str, Any]]


class GainReward(VecEnvWrapper):  # type: ignore[misc, unused-ignore]
    """The reward is what the policy serves within SLO beyond what the base limits serve on the same requests.

    In a window it is (tokens of the policy - tokens of the base) / (tokens offered per window), so an episode's mean
    reward is the difference of the two goodput shares, whatever device and load. The base is a control variate: it
    takes the luck of arrivals and lengths out of the return and changes no policy's rank.

    The horizon ends the account, so nothing is expected beyond it: an episode cut off there counts as ended.

    Args:
        venv: the environments.
        references: what the base serves in every run that may be drawn.
    """

    def __init__(self, venv: BatchingVecEnv, references: Mapping[Run, Played]) -> None:
        super().__init__(venv)
        self._references = references
        longest = max(len(played.good_tokens) for played in references.values())
        # Zeros beyond a run's end: there the base serves nothing more, however long the policy takes.
        self._base_tokens = np.zeros((venv.num_envs, longest + 1))
        self._offered_per_window = np.ones(venv.num_envs)
        self._window = np.zeros(venv.num_envs, dtype=np.int64)
        self._rows = np.arange(venv.num_envs)

    def reset(self) -> NDArray[np.float32]:
        """Begin an episode in every row."""
        observations: NDArray[np.float32] = self.venv.reset()
        for i in self._rows.tolist():
            self._begin(i)
        return observations

    def step_wait(self) -> tuple[NDArray[np.float32], NDArray[np.float32], NDArray[np.bool_], Infos]:
        """Run one decision interval in every row."""
        observations, _, ended, infos = self.venv.step_wait()
        told = self.venv.told
        tokens = _good_tokens(told["metrics"])
        if ended.any():
            tokens = np.where(ended, _good_tokens(told["final_info"]["metrics"]), tokens)
        window = np.minimum(self._window, self._base_tokens.shape[1] - 1)
        theirs = self._base_tokens[self._rows, window]
        for i in np.flatnonzero(ended).tolist():
            # What the base would still have served counts against the last window.
            theirs[i] = self._base_tokens[i, window[i] :].sum()
            infos[i]["TimeLimit.truncated"] = False
        rewards = ((tokens - theirs) / self._offered_per_window).astype(np.float32)
        self._window += 1
        for i in np.flatnonzero(ended).tolist():
            self._begin(i)
        return observations, rewards, ended, infos

    def _begin(self, i: int) -> None:
        """Take up the base's account of the run that row `i` has begun."""
        told = self.venv.told
        played = self._references[told["scenario"][i], int(told["seed"][i])]
        self._base_tokens[i] = 0.0
        self._base_tokens[i, : len(played.good_tokens)] = played.good_tokens
        self._offered_per_window[i] = played.offered_per_window
        self._window[i] = 0


class FixedNormalisation(VecEnvWrapper):  # type: ignore[misc, unused-ignore]
    """Observations as (x - mean) / std, clipped; the numbers never change, so an exported policy holds the same ones.

    Args:
        venv: the environments.
        mean: shape (F,).
        std: shape (F,), above 0.
        clip: results lie within plus and minus this.

    Attributes:
        low: smallest value that each feature had so far, before normalisation, shape (F,).
        high: largest.
    """

    def __init__(self, venv: VecEnv, mean: Sequence[float], std: Sequence[float], clip: float) -> None:
        box = spaces.Box(-clip, clip, venv.observation_space.shape, np.float32)
        super().__init__(venv, observation_space=box)
        self._normalise = Normaliser(mean, std, clip)
        self.low = np.full(len(FEATURE_NAMES), np.inf, np.float32)
        self.high = -self.low

    def reset(self) -> NDArray[np.float32]:
        """Begin an episode in every row."""
        return self._normalise(self._noted(self.venv.reset()))

    def step_wait(self) -> tuple[NDArray[np.float32], NDArray[np.float32], NDArray[np.bool_], Infos]:
        """Run one decision interval in every row."""
        observations, rewards, ended, infos = self.venv.step_wait()
        for i in np.flatnonzero(ended).tolist():
            infos[i]["terminal_observation"] = self._normalise(infos[i]["terminal_observation"])
        return self._normalise(self._noted(observations)), rewards, ended, infos

    def _noted(self, observations: NDArray[np.float32]) -> NDArray[np.float32]:
        latest = observations[:, -len(FEATURE_NAMES) :]
        np.minimum(self.low, latest.min(axis=0), out=self.low)
        np.maximum(self.high, latest.max(axis=0), out=self.high)
        return observations


class Normaliser:
    """(x - mean) / std, clipped, in single precision.

    Args:
        mean: shape (F,).
        std: shape (F,), above 0.
        clip: results lie within plus and minus this.
    """

    def __init__(self, mean: Sequence[float], std: Sequence[float], clip: float) -> None:
        self._mean, self._std = np.asarray(mean, np.float32), np.asarray(std, np.float32)
        self._clip = np.float32(clip)

    def __call__(self, observations: NDArray[np.float32]) -> NDArray[np.float32]:
        """Normalise.

        Args:
            observations: shape (..., F).
        """
        normalised: NDArray[np.float32] = np.clip((observations - self._mean) / self._std, -self._clip, self._clip)
        return normalised


def _good_tokens(metrics: Mapping[str, NDArray[np.float64]]) -> NDArray[np.float64]:
    tokens: NDArray[np.float64] = metrics["goodput_tokens_per_s"] * metrics["duration_ms"] / 1000.0
    return tokens
