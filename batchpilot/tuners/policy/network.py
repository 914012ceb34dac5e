"""The network of a policy file in numpy: the same operators in the same order as the ONNX graph.

At this size numpy answers as fast as onnxruntime does, and a server then runs no native code on a file from elsewhere.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field
from itertools import pairwise
from typing import Any

import numpy as np
from numpy.typing import NDArray

from batchpilot.tuners.policy.layout import ACTIVATIONS, MOST_LAYERS

Floats = NDArray[np.float32]


@dataclass(frozen=True, eq=False)
class Network:
    """A normalised multilayer perceptron that chooses one action for each limit.

    Attributes:
        mean: taken from the inputs, shape (k * F,).
        std: what the rest is divided by, > 0, shape (k * F,).
        clip: normalised inputs are held within -clip and clip, > 0.
        weights: of each layer, shape (outputs, inputs).
        biases: of each layer, shape (outputs,).
        activations: of each hidden layer, "Tanh" or "Relu".
        sizes: number of actions of each limit.

    Raises:
        ValueError: shapes that do not fit each other, numbers that are not finite, or an unknown activation.
    """

    mean: Floats
    std: Floats
    clip: float
    weights: tuple[Floats, ...]
    biases: tuple[Floats, ...]
    activations: tuple[str, ...]
    sizes: tuple[int, ...]
    _slices: list[slice] = field(init=False, repr=False)
    _hidden: list[tuple[Floats, Floats, Callable[..., Any]]] = field(init=False, repr=False)

    def __post_init__(self) -> None:
        if len(self.activations) > MOST_LAYERS:
            raise ValueError(f"the network has {len(self.activations)} hidden layers; at most {MOST_LAYERS} are read")
        for activation in self.activations:
            if activation not in ACTIVATIONS:
                raise ValueError(f"the network has the activation {activation}; allowed: {', '.join(ACTIVATIONS)}")
        if not len(self.weights) == len(self.biases) == len(self.activations) + 1:
            raise ValueError(
                f"the network has {len(self.weights)} weights, {len(self.biases)} biases and "
                f"{len(self.activations)} activations; one layer more than activations is needed"
            )
        self._check_shapes()
        self._check_numbers()
        ends = np.cumsum((0, *self.sizes)).tolist()
        object.__setattr__(self, "_slices", [slice(low, high) for low, high in pairwise(ends)])
        functions = {"Tanh": np.tanh, "Relu": _relu}
        applied = [functions[activation] for activation in self.activations]
        object.__setattr__(self, "_hidden", list(zip(self.weights, self.biases, applied, strict=False)))

    @property
    def inputs(self) -> int:
        """Numbers that it reads."""
        return len(self.mean)

    def decide(self, features: Floats) -> list[int]:
        """The best action of each limit.

        Args:
            features: raw, shape (inputs,).
        """
        with np.errstate(all="ignore"):
            logits = self.logits(features)
        return [int(logits[part].argmax()) for part in self._slices]

    def logits(self, features: Floats) -> Floats:
        """The value of every action of every limit.

        Args:
            features: raw, shape (inputs,).

        Returns:
            Shape (sum of sizes,).
        """
        values: Floats = features - self.mean
        values /= self.std
        np.minimum(np.maximum(values, -self.clip, out=values), self.clip, out=values)
        for weights, biases, function in self._hidden:
            values = weights.dot(values)
            values += biases
            function(values, out=values)
        values = self.weights[-1].dot(values)
        values += self.biases[-1]
        return values

    def _check_shapes(self) -> None:
        width = self.inputs
        if self.mean.shape != self.std.shape or self.mean.ndim != 1 or not width:
            raise ValueError(f"mean and std have shapes {self.mean.shape} and {self.std.shape}; both must be (inputs,)")
        for layer, (weights, biases) in enumerate(zip(self.weights, self.biases, strict=True)):
            if weights.ndim != 2 or weights.shape[1] != width or biases.shape != (weights.shape[0],):
                raise ValueError(
                    f"layer {layer} has weights of shape {weights.shape} and biases of shape {biases.shape}; "
                    f"it reads {width} numbers, so (outputs, {width}) and (outputs,) are needed"
                )
            width = len(biases)
        if not self.sizes or min(self.sizes) < 1 or sum(self.sizes) != width:
            raise ValueError(f"the last layer gives {width} logits; the limits have {list(self.sizes)} actions")

    def _check_numbers(self) -> None:
        if not (np.isfinite(self.clip) and self.clip > 0):
            raise ValueError(f"inputs are clipped to {self.clip}; it must be above 0")
        if not (np.isfinite(self.std).all() and (self.std > 0).all()):
            raise ValueError("std holds a number that is not above 0")
        for name, arrays in (("mean", [self.mean]), ("weights", self.weights), ("biases", self.biases)):
            if not all(np.isfinite(array).all() for array in arrays):
                raise ValueError(f"{name} hold a number that is not finite")


def _relu(values: Floats, out: Floats) -> Floats:
    return np.maximum(values, np.float32(0), out=out)
