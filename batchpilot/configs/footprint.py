"""What a model weighs: bytes of its weights, of its KV cache and of an engine's start. All sizes in bytes."""

from __future__ import annotations

from batchpilot.configs.models.spec import BYTES_PER_WEIGHT, KV_TYPES, ModelSpec
from batchpilot.core.names import lookup

__all__ = ["BYTES_PER_WEIGHT", "KV_TYPES", "kv_bytes", "kv_bytes_per_request", "kv_bytes_per_token", "weight_bytes"]

_SAME_TYPES = {
    "bf16": "fp16",
    "bfloat16": "fp16",
    "float16": "fp16",
    "half": "fp16",
    "float32": "fp32",
    "fp8_e4m3": "fp8",
    "awq": "int4",
    "gptq": "int4",
}


def weight_type(dtype: str | None, model: ModelSpec) -> str:
    """The type that weights are stored in, by our name for it.

    Args:
        dtype: as typed: one of ours, another name of it (bf16, awq); None for the type the model is published in.
        model: the model.

    Raises:
        ValueError: an unknown type; the message names the known ones.
    """
    chosen = model.dtype if dtype is None else _SAME_TYPES.get(dtype.lower(), dtype.lower())
    lookup(BYTES_PER_WEIGHT, chosen, "dtype")
    return chosen


def kv_type(kv_dtype: str | None, model: ModelSpec) -> str:
    """The type that the KV cache is kept in, by our name for it.

    Args:
        kv_dtype: as typed; None or "auto" for what the checkpoint asks for, else that of its unquantised weights.
        model: the model.

    Raises:
        ValueError: an unknown type; the message names the known ones.
    """
    if kv_dtype is None or kv_dtype == "auto":
        return model.kv_dtype or ("fp32" if model.bytes_per_parameter == 4 else "fp16")
    chosen = _SAME_TYPES.get(kv_dtype.lower(), kv_dtype.lower())
    lookup(dict.fromkeys(KV_TYPES), chosen, "type of the KV cache")
    return chosen


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


def kv_bytes_per_token(model: ModelSpec, tensor_parallel: int = 1, kv_dtype: str | None = None) -> float:
    """KV cache that one more token of a long request takes on one device.

    Layers with a window have long filled it then, so they count only where no layer keeps everything.

    Args:
        model: the model.
        tensor_parallel: devices that share the heads, >= 1; beyond `kv_heads` devices, heads are kept more than once.
        kv_dtype: type of the cache, None for what the model asks for.

    Raises:
        ValueError: `tensor_parallel` is below 1, or the type is unknown.
    """
    if tensor_parallel < 1:
        raise ValueError(f"tensor_parallel is {tensor_parallel}; it must be >= 1")
    size = BYTES_PER_WEIGHT[kv_type(kv_dtype, model)]
    growing = [kind for kind in model.cached if kind.window is None] or list(model.cached)
    return size * sum(kind.values_per_token(tensor_parallel) for kind in growing)


def kv_bytes_per_request(model: ModelSpec, tokens: int, tensor_parallel: int = 1, kv_dtype: str | None = None) -> float:
    """All that one device keeps for a request: KV cache of every layer, windows bounded, and recurrent state.

    Args:
        model: the model.
        tokens: of the request so far, >= 0.
        tensor_parallel: devices that share the heads, >= 1.
        kv_dtype: type of the cache, None for what the model asks for.

    Raises:
        ValueError: an argument is below its bound, or the type is unknown.
    """
    if tokens < 0 or tensor_parallel < 1:
        raise ValueError(f"tokens {tokens} must be >= 0 and tensor_parallel {tensor_parallel} >= 1")
    size = BYTES_PER_WEIGHT[kv_type(kv_dtype, model)]
    kept = sum(
        kind.values_per_token(tensor_parallel) * (tokens if kind.window is None else min(tokens, kind.window))
        for kind in model.cached
    )
    return size * kept + model.state_bytes_per_request / tensor_parallel


def weight_bytes(model: ModelSpec, dtype: str | None = "fp16") -> float:
    """All weights of a model.

    Args:
        model: the model.
        dtype: type the weights are stored in, a key of `BYTES_PER_WEIGHT` or another name of it; what the model keeps
            unquantised stays at 16 bits. None for the type it is published in.

    Raises:
        ValueError: an unknown type; the message names the known ones.
    """
    size = BYTES_PER_WEIGHT[weight_type(dtype, model)]
    kept = model.unquantised_parameters if size < 2 else 0
    return 2.0 * kept + size * (model.parameters - kept)
