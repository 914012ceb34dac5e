"""What a model weighs: bytes of its weights and of its KV cache. All sizes in bytes."""

from __future__ import annotations

from batchpilot.configs.catalogue import ModelSpec
from batchpilot.core.names import lookup

SCALE_OVERHEAD = 0.0625
"""Scales and zero points of 4-bit weights in groups of 128, relative to the weights (SPEC 4)."""

BYTES_PER_WEIGHT: dict[str, float] = {"fp16": 2.0, "int8": 1.0, "int4": 0.5 * (1 + SCALE_OVERHEAD)}
"""Bytes of one weight by the type it is stored in."""


def kv_bytes(layers: int, kv_heads: int, head_dim: int, tokens: int, bytes_per_value: float = 2.0) -> float:
    """KV cache of a number of tokens: a key and a value in each head of each layer.

    Args:
        layers: decoder layers.
        kv_heads: key and value heads of a layer.
        head_dim: values in a head.
        tokens: cached tokens, text and image, summed over requests, >= 0.
        bytes_per_value: size of a cached value, > 0.

    Raises:
        ValueError: an argument is below its bound.

    Source: inference basics document, KV cache formula (its printed example is half of its own product).
    """
    for name, value, lowest in (("layers", layers, 1), ("kv_heads", kv_heads, 1), ("head_dim", head_dim, 1)):
        if value < lowest:
            raise ValueError(f"{name} is {value}; it must be >= {lowest}")
    if tokens < 0:
        raise ValueError(f"tokens is {tokens}; it must be >= 0")
    if not bytes_per_value > 0:
        raise ValueError(f"bytes_per_value is {bytes_per_value}; it must be > 0")
    return 2 * layers * kv_heads * head_dim * tokens * bytes_per_value


def kv_bytes_per_token(model: ModelSpec, tensor_parallel: int = 1) -> float:
    """KV cache of one token on one device.

    Args:
        model: the model; its cache is kept in the type its weights were published in.
        tensor_parallel: devices that share the heads, >= 1; beyond `kv_heads` devices, heads are kept more than once.

    Raises:
        ValueError: `tensor_parallel` is below 1.
    """
    if tensor_parallel < 1:
        raise ValueError(f"tensor_parallel is {tensor_parallel}; it must be >= 1")
    kv_heads = -(-model.kv_heads // tensor_parallel)
    return kv_bytes(model.layers, kv_heads, model.head_dim, 1, model.bytes_per_parameter)


def weight_bytes(model: ModelSpec, dtype: str = "fp16") -> float:
    """All weights of a model.

    Args:
        model: the model.
        dtype: type the weights are stored in: fp16, int8 or int4 (with 6.25 % for scales).

    Raises:
        ValueError: an unknown type; the message names the known ones.
    """
    return model.parameters * lookup(BYTES_PER_WEIGHT, dtype, "dtype")
