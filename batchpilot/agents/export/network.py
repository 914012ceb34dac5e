"""The network of a trained stable-baselines3 policy as plain arrays. Needs the extra `rl`."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np

from batchpilot.core.extras import needing
from batchpilot.tuners.policy.layout import ACTIVATIONS
from batchpilot.tuners.policy.network import Floats, Network

with needing("exporting a policy", "rl"):
    import torch
    from stable_baselines3.common.policies import ActorCriticPolicy
    from stable_baselines3.common.torch_layers import FlattenExtractor


_LAYERS = {"Tanh": torch.nn.Tanh, "Relu": torch.nn.ReLU}


def trained_network(policy: ActorCriticPolicy, mean: Floats, std: Floats, clip: float) -> Network:
    """What a policy computes on the way from features to the values of its actions.

    Args:
        policy: an `MlpPolicy` over `MultiDiscrete` actions.
        mean: of the normalisation that it was trained behind, shape (k * F,).
        std: of the same.
        clip: of the same.

    Raises:
        ValueError: the policy has other parts than linear layers, Tanh and ReLU.
    """
    sizes = getattr(policy.action_space, "nvec", None)
    if sizes is None:
        raise ValueError(f"the policy acts on {policy.action_space}; only MultiDiscrete actions can be exported")
    if not isinstance(policy.features_extractor, FlattenExtractor):
        raise ValueError(
            f"the policy reads through a {type(policy.features_extractor).__name__}; only an MlpPolicy can be exported"
        )
    layers = [*policy.mlp_extractor.policy_net, policy.action_net]
    return layers_network(layers, sizes, mean, std, clip)


def layers_network(layers: Sequence[Any], sizes: Sequence[int], mean: Floats, std: Floats, clip: float) -> Network:
    """Torch layers as plain arrays.

    Args:
        layers: linear ones, with one activation between each and the next.
        sizes: number of actions of each limit.
        mean: of the normalisation, shape (k * F,).
        std: of the same.
        clip: of the same.

    Raises:
        ValueError: there are others, or their shapes do not fit.
    """
    linear, activations = layers[0::2], [_activation(layer) for layer in layers[1::2]]
    for layer in linear:
        if not isinstance(layer, torch.nn.Linear) or layer.bias is None:
            raise ValueError(f"the policy has a {layer} where a linear layer with a bias is needed")
    return Network(
        mean=mean,
        std=std,
        clip=clip,
        weights=tuple(_array(layer.weight) for layer in linear),
        biases=tuple(_array(layer.bias) for layer in linear),
        activations=tuple(activations),
        sizes=tuple(int(size) for size in sizes),
    )


def _activation(layer: Any) -> str:
    for name, kind in _LAYERS.items():
        if isinstance(layer, kind):
            return name
    raise ValueError(f"the policy has a {layer} between its layers; allowed: {', '.join(ACTIVATIONS)}")


def _array(parameter: torch.Tensor) -> Floats:
    values: Floats = parameter.detach().cpu().numpy().astype(np.float32)
    return values
