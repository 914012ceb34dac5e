"""Hyperparameters of PPO in rl-zoo's words; `lin_3e-4` is a value that falls linearly to zero."""

from __future__ import annotations

import re
from typing import Annotated, Literal

from pydantic import Field, field_validator

from batchpilot.configs.strict import StrictModel, problem

Share = Annotated[float, Field(ge=0, le=1)]
Count = Annotated[int, Field(ge=1)]

_LINEAR = "lin_"


class PolicyKwargs(StrictModel):
    """The policy network.

    Attributes:
        net_arch: hidden layers, the same for policy and value, which share nothing.
        activation_fn: what follows each of them.
    """

    net_arch: Annotated[list[Count], Field(min_length=1)] = Field(default_factory=lambda: [64, 64])
    activation_fn: Literal["tanh", "relu"] = "tanh"


class PPOConfig(StrictModel):
    """Hyperparameters of `stable_baselines3.PPO` under their own names.

    Attributes:
        n_timesteps: decisions in all.
        n_envs: environments side by side.
        n_steps: decisions of each between two updates.
        batch_size: decisions in a gradient step.
        n_epochs: passes over a rollout.
        gamma: discount.
        gae_lambda: bias against variance of the advantages.
        learning_rate: a number, or "lin_NUMBER" to fall to zero.
        clip_range: how far a probability may move in an update.
        ent_coef: weight of the entropy.
        vf_coef: weight of the value loss.
        max_grad_norm: gradients are clipped to it.
        target_kl: an update stops beyond it; None for never.
        policy_kwargs: the network.
    """

    n_timesteps: Count
    n_envs: Count = 64
    n_steps: Count = 128
    batch_size: Annotated[int, Field(ge=2)] = 2048
    n_epochs: Count = 4
    gamma: Share = 0.98
    gae_lambda: Share = 0.95
    learning_rate: float | str = "lin_3e-4"
    clip_range: Annotated[float, Field(gt=0)] = 0.2
    ent_coef: Annotated[float, Field(ge=0)] = 0.0
    vf_coef: Annotated[float, Field(ge=0)] = 0.5
    max_grad_norm: Annotated[float, Field(gt=0)] = 0.5
    target_kl: Annotated[float, Field(gt=0)] | None = None
    policy_kwargs: PolicyKwargs = PolicyKwargs()

    @field_validator("learning_rate")
    @classmethod
    def _readable(cls, given: float | str) -> float | str:
        number = str(given).removeprefix(_LINEAR)
        if not re.fullmatch(r"\d+(\.\d*)?([eE][+-]?\d+)?", number) or float(number) <= 0:
            raise problem(f"learning_rate is {given!r}; it must be a number above 0, or lin_ and a number")
        return given

    def learning_rate_at(self, progress: float) -> float:
        """The learning rate after a share of the training.

        Args:
            progress: from 0 to 1.
        """
        highest = float(str(self.learning_rate).removeprefix(_LINEAR))
        return highest * (1.0 - progress) if str(self.learning_rate).startswith(_LINEAR) else highest
