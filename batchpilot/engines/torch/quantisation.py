"""Weights in 8 bits: W_q = round((W - Z) / S), W = S W_q + Z, and what that costs in accuracy.

Symmetric: Z = 0, whole numbers from -127 to 127. Asymmetric: Z = the least weight, 0 to 255. A scale a row of the
matrix, which is an output channel. Source: deployment document, quantisation.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import nn

INT8_LARGEST = 127
_PACKED_ROWS = 32
"""Up to so many rows the packed product reads 8-bit weights directly; beyond, unpacking them once is cheaper."""


@dataclass(frozen=True, slots=True, eq=False)
class Quantised:
    """A quantised matrix.

    Attributes:
        values: W_q, shape (out, in); int8 where symmetric, else uint8.
        scale: S, shape (out,).
        zero: Z, shape (out,), None where symmetric.
    """

    values: torch.Tensor
    scale: torch.Tensor
    zero: torch.Tensor | None = None

    def restored(self) -> torch.Tensor:
        """The matrix as it is computed with, shape (out, in), float32."""
        matrix = self.values.float() * self.scale.float().unsqueeze(-1)
        return matrix if self.zero is None else matrix + self.zero.float().unsqueeze(-1)


def quantise(weights: torch.Tensor, bits: int = 8, *, symmetric: bool = True) -> Quantised:
    """Quantise a matrix, a scale a row.

    Args:
        weights: shape (out, in), finite.
        bits: of a number, 2 to 8; fewer than 8 still take an octet each here.
        symmetric: whether zero stays zero; else the range of each row is used to its ends.

    Raises:
        ValueError: an argument is outside its bound.
    """
    if weights.ndim != 2:
        raise ValueError(f"weights have shape {tuple(weights.shape)}; a matrix has (out, in)")
    if not 2 <= bits <= 8:
        raise ValueError(f"bits is {bits}; it must be 2 to 8")
    matrix = weights.float()
    if not bool(torch.isfinite(matrix).all()):
        raise ValueError("weights hold a value that is not finite")
    if symmetric:
        most = 2 ** (bits - 1) - 1
        scale = _above_zero(matrix.abs().amax(-1) / most)
        numbers = (matrix / scale.unsqueeze(-1)).round().clamp(-most, most)
        return Quantised(numbers.to(torch.int8), scale)
    most = 2**bits - 1
    least = matrix.amin(-1)
    scale = _above_zero((matrix.amax(-1) - least) / most)
    numbers = ((matrix - least.unsqueeze(-1)) / scale.unsqueeze(-1)).round().clamp(0, most)
    return Quantised(numbers.to(torch.uint8), scale, least)


def relative_error(weights: torch.Tensor, quantised: Quantised) -> float:
    """||W - W_q|| / ||W||, Frobenius norms.

    Args:
        weights: shape (out, in).
        quantised: the same matrix, quantised.
    """
    matrix = weights.float()
    return float((matrix - quantised.restored()).norm() / matrix.norm())


def expected_error(quantised: Quantised) -> float:
    """||W - W_q|| that rounding to the nearest of evenly spaced numbers gives: S / sqrt(12) a weight.

    Args:
        quantised: a matrix.
    """
    columns = quantised.values.shape[1]
    squares = float(quantised.scale.float().square().sum())
    return math.sqrt(squares * columns / 12)


def documented_error(weights: torch.Tensor, bits: int = 8) -> float:
    """||W - W_q|| by the deployment document: sigma n / (sqrt(12) 2^b), n the root of the number of weights.

    It takes sigma for the width of the range, which of normal weights is some 7 to 9 sigma: it is that many times too
    small, as `expected_error` shows.

    Args:
        weights: shape (out, in).
        bits: of a number.
    """
    sigma = float(weights.float().std())
    return sigma * math.sqrt(weights.numel() / 12) / 2.0**bits


class Int8Linear(nn.Module):  # type: ignore[misc]
    """A linear layer whose weights are 8-bit whole numbers with a scale for each output.

    Args:
        linear: the layer; its bias is kept as it is.
    """

    weight: torch.Tensor
    scale: torch.Tensor

    def __init__(self, linear: nn.Linear) -> None:
        super().__init__()
        quantised = quantise(linear.weight.data)
        self.register_buffer("weight", quantised.values)
        self.register_buffer("scale", quantised.scale.to(linear.weight.dtype))
        self.bias = linear.bias

    def forward(self, given: torch.Tensor) -> torch.Tensor:
        """The layer's output.

        Args:
            given: shape (..., in).
        """
        rows = given.reshape(-1, given.shape[-1])
        if given.dtype == torch.bfloat16 and len(rows) <= _PACKED_ROWS and given.device.type == "cpu":
            out = torch.ops.aten._weight_int8pack_mm(rows, self.weight, self.scale)
        else:
            out = nn.functional.linear(rows, self.weight.to(given.dtype)) * self.scale
        out = out.view(*given.shape[:-1], -1)
        return out if self.bias is None else out + self.bias


def quantise_weights(model: Any, keep: Sequence[str] = ("lm_head",)) -> float:
    """Turn a model's linear layers into 8-bit ones, in place.

    Args:
        model: a loaded causal LM.
        keep: layers to leave as they are: those whose name ends in one of these, or lies below one. The head, as
            servers do, unless said otherwise.

    Returns:
        ||W - W_q|| / ||W|| over all that were quantised.
    """
    missed = total = 0.0
    for name, module in list(model.named_modules()):
        if not isinstance(module, nn.Linear) or any(part in keep for part in name.split(".")):
            continue
        weights = module.weight.data.float()
        layer = Int8Linear(module)
        restored = layer.weight.float() * layer.scale.float().unsqueeze(-1)
        missed += float((weights - restored).square().sum())
        total += float(weights.square().sum())
        parent, _, last = name.rpartition(".")
        setattr(model.get_submodule(parent), last, layer)
    return math.sqrt(missed / total) if total else 0.0


def _above_zero(scale: torch.Tensor) -> torch.Tensor:
    """A scale of one for rows that are zero, which any scale restores."""
    return torch.where(scale > 0, scale, torch.ones_like(scale))
