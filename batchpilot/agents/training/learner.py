"""PPO of stable-baselines3 on two cores: each part of the rows plays in a thread, and so learns each of the networks.

The algorithm is stable-baselines3's, and so are the checkpoints. Policy and value network share nothing but the
clipping of their gradients, so one learns beside the other. How threads are scheduled changes no number.
"""

from __future__ import annotations

from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray

from batchpilot.agents.training.parts import Parts
from batchpilot.core.extras import needing

with needing("training", "rl"):
    import torch
    from stable_baselines3 import PPO
    from stable_baselines3.common.buffers import RolloutBuffer
    from stable_baselines3.common.callbacks import BaseCallback
    from stable_baselines3.common.utils import explained_variance
    from stable_baselines3.common.vec_env import VecEnv
    from torch import Tensor

_ROWS_AT_ONCE = 4096
"""Observations in one forward pass: what it computes stays in the processor's cache."""

_TINY = 1e-8

Ended = list[tuple[int, dict[str, Any]]]
"""Infos of the rows that ended, each with its step."""


class Lesson(NamedTuple):
    """A minibatch of n decisions.

    Attributes:
        observations: shape (n, F).
        actions: shape (n, fields).
        log_probs: of the actions when they were taken, shape (n,).
        advantages: shape (n,).
        returns: shape (n,).
    """

    observations: Tensor
    actions: Tensor
    log_probs: Tensor
    advantages: Tensor
    returns: Tensor


class PartedPPO(PPO):  # type: ignore[misc, unused-ignore]
    """`stable_baselines3.PPO` with an `MlpPolicy` and several discrete actions, on an environment of `Parts`.

    Values and probabilities are computed once a rollout, for all of its observations. Callbacks hear of rollouts, not
    of steps. An episode that is cut off counts as ended, as `training.env.GainReward` has it.
    """

    def collect_rollouts(
        self, env: VecEnv, callback: BaseCallback, rollout_buffer: RolloutBuffer, n_rollout_steps: int
    ) -> bool:
        """Play, each part in a thread of its own.

        Args:
            env: the environment.
            callback: told of the rollout's start and end.
            rollout_buffer: to be filled.
            n_rollout_steps: decisions of a row.

        Returns:
            True: nothing ends a rollout early.
        """
        assert isinstance(env, Parts)
        assert self._last_obs is not None
        self.policy.set_training_mode(False)
        rollout_buffer.reset()
        callback.on_rollout_start()
        choices = sum(self.policy.action_dist.action_dims)
        # Of Gumbel's distribution: the largest sum of it and a logit is a draw of the softmax.
        luck = -torch.empty(n_rollout_steps, choices, env.num_envs).exponential_().log_().numpy()
        ended: Ended = []
        with _threads(len(env.parts)) as threads:
            played = [
                threads.submit(self._play, part, rows, rollout_buffer, luck[..., rows])
                for part, rows in zip(env.parts, env.slices, strict=True)
            ]
            for rows, part in zip(env.slices, played, strict=True):
                self._last_obs[rows], self._last_episode_starts[rows], some = part.result()
                ended += some
            values = threads.submit(self._value, rollout_buffer, self._last_obs)
            self._tell_log_probs(rollout_buffer)
            last_values = values.result()
        rollout_buffer.pos, rollout_buffer.full = n_rollout_steps, True
        rollout_buffer.compute_returns_and_advantage(last_values, self._last_episode_starts)
        self.num_timesteps += n_rollout_steps * env.num_envs
        self._update_info_buffer([info for _, info in sorted(ended, key=lambda one: one[0])])
        callback.update_locals(locals())
        callback.on_rollout_end()
        return True

    def train(self) -> None:
        """Update policy and value network on the rollout, side by side."""
        self.policy.set_training_mode(True)
        self._update_learning_rate(self.policy.optimizer)
        clip_range = float(self.clip_range(self._current_progress_remaining))
        told: list[dict[str, float]] = []
        with _threads(1) as thread:
            for _ in range(self.n_epochs):
                self._n_updates += 1
                for lesson in self._lessons():
                    value = thread.submit(self._learn_value, lesson)
                    learnt = self._learn_policy(lesson, clip_range)
                    told.append(learnt | value.result())
                    if self.target_kl is not None and learnt["approx_kl"] > 1.5 * self.target_kl:
                        break
                    torch.nn.utils.clip_grad_norm_(self.policy.parameters(), self.max_grad_norm)
                    self.policy.optimizer.step()
                else:
                    continue
                break
        for name in told[0]:
            self.logger.record(f"train/{name}", np.mean([one[name] for one in told]))
        buffer = self.rollout_buffer
        explained = explained_variance(buffer.values.flatten(), buffer.returns.flatten())
        self.logger.record("train/explained_variance", explained)
        self.logger.record("train/n_updates", self._n_updates, exclude="tensorboard")
        self.logger.record("train/clip_range", clip_range)

    def _play(
        self, part: VecEnv, rows: slice, buffer: RolloutBuffer, luck: NDArray[np.float32]
    ) -> tuple[NDArray[np.float32], NDArray[np.bool_], Ended]:
        """Play one part for as long as there is luck, shape (steps, choices, rows), and write it into the buffer."""
        observations, starts = self._last_obs[rows], self._last_episode_starts[rows]
        firsts = np.cumsum(self.policy.action_dist.action_dims)[:-1]
        ended: Ended = []
        for step, chance in enumerate(luck):
            with torch.inference_mode():
                chance += self._logits(torch.from_numpy(observations)).numpy()
            actions = np.stack([choice.argmax(axis=0) for choice in np.split(chance, firsts)], axis=1)
            buffer.observations[step, rows] = observations
            buffer.episode_starts[step, rows] = starts
            buffer.actions[step, rows] = actions
            observations, buffer.rewards[step, rows], starts, infos = part.step(actions)
            ended += [(step, infos[i]) for i in np.flatnonzero(starts).tolist()]
        return observations, starts, ended

    def _value(self, buffer: RolloutBuffer, following: NDArray[np.float32]) -> Tensor:
        """Write the values of a rollout into its buffer, and tell those of the observations that followed."""
        values = torch.from_numpy(buffer.values).view(-1)
        with torch.inference_mode():
            for some, observations in _in_turn(buffer.observations):
                values[some] = self._values(observations)
            return self._values(torch.from_numpy(following))

    def _tell_log_probs(self, buffer: RolloutBuffer) -> None:
        actions = torch.from_numpy(buffer.actions).view(-1, buffer.action_dim)
        log_probs = torch.from_numpy(buffer.log_probs).view(-1)
        with torch.inference_mode():
            for some, observations in _in_turn(buffer.observations):
                log_probs[some] = self._log_softmax(observations, actions[some])[0]

    def _lessons(self) -> Iterator[Lesson]:
        """The rollout in minibatches of random order."""
        buffer = self.rollout_buffer
        count = buffer.rewards.size
        arrays = (buffer.observations, buffer.actions, buffer.log_probs, buffer.advantages, buffer.returns)
        columns = [torch.from_numpy(array).flatten(0, 1) for array in arrays]
        for some in torch.randperm(count).split(self.batch_size):
            lesson = Lesson(*(column[some] for column in columns))
            advantages = lesson.advantages
            if self.normalize_advantage and len(advantages) > 1:
                advantages = (advantages - advantages.mean()) / (advantages.std() + _TINY)
            yield lesson._replace(advantages=advantages)

    def _learn_policy(self, lesson: Lesson, clip_range: float) -> dict[str, float]:
        """Gradients of the clipped objective and the entropy, and what there is to tell of them."""
        log_probs, entropy = self._log_softmax(lesson.observations, lesson.actions)
        change = log_probs - lesson.log_probs
        ratio = change.exp()
        gained = lesson.advantages * ratio
        clipped = lesson.advantages * ratio.clamp(1.0 - clip_range, 1.0 + clip_range)
        loss = -torch.min(gained, clipped).mean()
        _put_gradients(loss - self.ent_coef * entropy, [self.policy.mlp_extractor.policy_net, self.policy.action_net])
        with torch.no_grad():
            return {
                "policy_gradient_loss": loss.item(),
                "entropy_loss": -entropy.item(),
                "approx_kl": (ratio - 1.0 - change).mean().item(),
                "clip_fraction": ((ratio - 1.0).abs() > clip_range).float().mean().item(),
            }

    def _learn_value(self, lesson: Lesson) -> dict[str, float]:
        """Gradients of the value loss, and the loss."""
        loss = torch.nn.functional.mse_loss(self._values(lesson.observations), lesson.returns)
        _put_gradients(self.vf_coef * loss, [self.policy.mlp_extractor.value_net, self.policy.value_net])
        return {"value_loss": loss.item()}

    def _logits(self, observations: Tensor) -> Tensor:
        """Of every choice, shape (choices, n): a softmax over so few takes fifteen times as long along rows."""
        head = self.policy.action_net
        return torch.addmm(
            head.bias[:, None], head.weight, _hidden(self.policy.mlp_extractor.policy_net, observations).T
        )

    def _values(self, observations: Tensor) -> Tensor:
        values: Tensor = self.policy.value_net(_hidden(self.policy.mlp_extractor.value_net, observations))
        return values.flatten()

    def _log_softmax(self, observations: Tensor, actions: Tensor) -> tuple[Tensor, Tensor]:
        """Logarithms of the probabilities of actions, shape (n,), and the mean entropy."""
        logits = self._logits(observations).split(self.policy.action_dist.action_dims)
        of_actions, entropy = torch.zeros(len(observations)), torch.zeros(())
        for field, chosen in zip(logits, actions.T, strict=True):
            logs = field.log_softmax(dim=0)
            of_actions = of_actions + logs.gather(0, chosen[None])[0]
            with torch.set_grad_enabled(torch.is_grad_enabled() and self.ent_coef > 0):
                entropy = entropy - (logs.exp() * logs).sum(dim=0).mean()
        return of_actions, entropy


class _Tanh(torch.autograd.Function):  # type: ignore[misc, unused-ignore]
    """tanh(x) as 2 / (1 + exp(-2x)) - 1: within 2e-7 of torch's own, in half the time."""

    @staticmethod
    def forward(ctx: Any, x: Tensor) -> Tensor:
        """Of every element."""
        y = (2 * x).sigmoid_().mul_(2).sub_(1)
        ctx.save_for_backward(y)
        return y

    @staticmethod
    def backward(ctx: Any, gradient: Tensor) -> Tensor:
        """1 - tanh(x)^2 of it."""
        (y,) = ctx.saved_tensors
        return torch.ops.aten.tanh_backward(gradient, y)


def _threads(count: int) -> ThreadPoolExecutor:
    """Threads that compute with as many of torch's own as their caller: by itself each would take every core."""
    return ThreadPoolExecutor(count, initializer=torch.set_num_threads, initargs=(torch.get_num_threads(),))


def _hidden(network: torch.nn.Sequential, observations: Tensor) -> Tensor:
    """What a network makes of observations, shape (n, units)."""
    for layer in network:
        observations = _Tanh.apply(observations) if isinstance(layer, torch.nn.Tanh) else layer(observations)
    return observations


def _in_turn(observations: NDArray[np.float32]) -> Iterator[tuple[slice, Tensor]]:
    """Some rows at a time of observations of shape (steps, rows, F)."""
    rows = torch.from_numpy(observations).flatten(0, 1)
    for first in range(0, len(rows), _ROWS_AT_ONCE):
        some = slice(first, first + _ROWS_AT_ONCE)
        yield some, rows[some]


def _put_gradients(loss: Tensor, networks: list[torch.nn.Module]) -> None:
    parameters = [parameter for network in networks for parameter in network.parameters()]
    for parameter, gradient in zip(parameters, torch.autograd.grad(loss, parameters), strict=True):
        parameter.grad = gradient
