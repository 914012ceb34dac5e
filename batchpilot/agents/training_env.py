"""What PPO sees while it trains: rewards against the base limits on the same requests, and normalised observations."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
from gymnasium import spaces
from numpy.typing import NDArray
from stable_baselines3.common.vec_env import VecEnv, VecEnvWrapper

from batchpilot.agents.evaluation import Played
from batchpilot.agents.sb3 import BatchingVecEnv

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
        self._playing: list[Played] = []
        self._window = np.zeros(venv.num_envs, dtype=np.int64)

    def reset(self) -> NDArray[np.float32]:
        """Begin an episode in every row."""
        observations: NDArray[np.float32] = self.venv.reset()
        told = self.venv.told
        self._playing = [self._reference(told, i) for i in range(self.num_envs)]
        self._window[:] = 0
        return observations

    def step_wait(self) -> tuple[NDArray[np.float32], NDArray[np.float32], NDArray[np.bool_], Infos]:
        """Run one decision interval in every row."""
        observations, _, ended, infos = self.venv.step_wait()
        told = self.venv.told
        tokens = _good_tokens(told["metrics"])
        if ended.any():
            tokens = np.where(ended, _good_tokens(told["final_info"]["metrics"]), tokens)
        rewards = np.array([self._gain(i, tokens[i], bool(ended[i])) for i in range(self.num_envs)], np.float32)
        self._window += 1
        for i in np.flatnonzero(ended).tolist():
            infos[i]["TimeLimit.truncated"] = False
            self._playing[i], self._window[i] = self._reference(told, i), 0
        return observations, rewards, ended, infos

    def _gain(self, i: int, tokens: float, ended: bool) -> float:
        """A window's reward; what the base would still have served counts against the last one."""
        reference, window = self._playing[i], self._window[i]
        theirs = reference.good_tokens[window:] if ended else reference.good_tokens[window : window + 1]
        return (tokens - float(theirs.sum())) / reference.offered_per_window

    def _reference(self, told: Mapping[str, Any], i: int) -> Played:
        return self._references[told["scenario"][i], int(told["seed"][i])]


class FixedNormalisation(VecEnvWrapper):  # type: ignore[misc, unused-ignore]
    """Observations as (x - mean) / std, clipped; the numbers never change, so an exported policy holds the same ones.

    Args:
        venv: the environments.
        mean: shape (F,).
        std: shape (F,), above 0.
        clip: results lie within plus and minus this.
    """

    def __init__(self, venv: VecEnv, mean: Sequence[float], std: Sequence[float], clip: float) -> None:
        box = spaces.Box(-clip, clip, venv.observation_space.shape, np.float32)
        super().__init__(venv, observation_space=box)
        self._normalise = Normaliser(mean, std, clip)

    def reset(self) -> NDArray[np.float32]:
        """Begin an episode in every row."""
        return self._normalise(self.venv.reset())

    def step_wait(self) -> tuple[NDArray[np.float32], NDArray[np.float32], NDArray[np.bool_], Infos]:
        """Run one decision interval in every row."""
        observations, rewards, ended, infos = self.venv.step_wait()
        for i in np.flatnonzero(ended).tolist():
            infos[i]["terminal_observation"] = self._normalise(infos[i]["terminal_observation"])
        return self._normalise(observations), rewards, ended, infos


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
