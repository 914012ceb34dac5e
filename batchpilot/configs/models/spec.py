"""What batching must know of a model: sizes, parameters, and what each layer caches."""

from __future__ import annotations

from dataclasses import dataclass

from batchpilot.core.names import lookup

BYTES_PER_WEIGHT: dict[str, float] = {
    "fp32": 4.0,
    "fp16": 2.0,
    "fp8": 1.0,
    "int8": 1.0,
    "int4": 0.5 * 1.0625,
    "nvfp4": 0.5 + 1 / 16,
    "mxfp4": 0.5 + 1 / 32,
}
"""Bytes of a stored number by type, its share of scales included: 6.25 % for 4-bit integers in groups of 128 (SPEC 4),
a byte for 16 numbers of NVFP4, a byte for 32 of MXFP4. `fp16` stands for both 16-bit types."""

KV_TYPES = ("fp32", "fp16", "fp8", "int8")
"""Types that a KV cache is kept in."""


@dataclass(frozen=True, slots=True)
class KvLayers:
    """Layers that cache alike.

    Attributes:
        layers: how many, >= 1.
        values: numbers that one of them caches for a token, keys and values together, >= 1.
        heads: heads that these numbers are spread over, which devices can share; 1 for a latent cache, kept whole.
        window: tokens of a request that it keeps at most; None keeps them all.

    Raises:
        ValueError: a figure is below 1.
    """

    layers: int
    values: int
    heads: int = 1
    window: int | None = None

    def __post_init__(self) -> None:
        for name in ("layers", "values", "heads", "window"):
            value = getattr(self, name)
            if value is not None and value < 1:
                raise ValueError(f"{name} of KV layers is {value}; it must be >= 1")

    def values_per_token(self, tensor_parallel: int = 1) -> float:
        """Numbers cached for a token on one device.

        Args:
            tensor_parallel: devices that share the heads; beyond `heads` of them, heads are kept more than once.
        """
        return self.layers * self.values * -(-self.heads // tensor_parallel) / self.heads


@dataclass(frozen=True, slots=True, kw_only=True)
class ModelSpec:
    """A decoder-only model.

    Attributes:
        name: what tables call it.
        layers: decoder layers.
        hidden_size: width of the residual stream.
        intermediate_size: width of the feed-forward that a token passes; of a mixture, its active experts together.
        heads: query heads.
        kv_heads: key and value heads; fewer than `heads` with grouped-query attention.
        head_dim: values in a head.
        parameters: weights, embeddings included.
        vocab_size: tokens in the vocabulary.
        max_model_len: longest prompt plus output, tokens.
        bytes_per_parameter: size of a weight as published, unquantised.
        dtype: type the weights are published in: a key of `BYTES_PER_WEIGHT`.
        kv_dtype: type the checkpoint asks its cache to be kept in; None for that of unquantised weights.
        unquantised_parameters: weights that stay at 16 bits when the others are quantised: embeddings, norms and such.
        active_parameters: weights that a token passes; None for all of them.
        experts: experts of a mixture's layer, 0 for a dense model.
        experts_per_token: of these a token passes so many.
        kv_layers: what the layers cache; empty for `layers` alike that keep a key and a value for each of `kv_heads`.
        state_bytes_per_request: recurrent state of linear attention and state-space layers, whatever the length.
        aliases: other names, repository names among them.
        source: where the figures come from.

    Raises:
        ValueError: a figure is outside its bound, or `kv_heads` does not divide `heads`; the message names it.
    """

    name: str
    layers: int
    hidden_size: int
    intermediate_size: int
    heads: int
    kv_heads: int
    head_dim: int
    parameters: int
    vocab_size: int
    max_model_len: int
    bytes_per_parameter: int = 2
    dtype: str = "fp16"
    kv_dtype: str | None = None
    unquantised_parameters: int = 0
    active_parameters: int | None = None
    experts: int = 0
    experts_per_token: int = 0
    kv_layers: tuple[KvLayers, ...] = ()
    state_bytes_per_request: float = 0.0
    aliases: tuple[str, ...] = ()
    source: str = ""

    def __post_init__(self) -> None:
        for name, lowest in _LOWEST.items():
            value = getattr(self, name)
            if isinstance(value, bool) or not isinstance(value, int | float) or not lowest <= value < float("inf"):
                raise ValueError(f"{name} of model {self.name} is {value!r}; it must be a number >= {lowest}")
        if self.heads % self.kv_heads:
            raise ValueError(f"kv_heads {self.kv_heads} of model {self.name} does not divide its heads {self.heads}")
        lookup(BYTES_PER_WEIGHT, self.dtype, f"dtype of model {self.name}")
        if self.kv_dtype is not None:
            lookup(dict.fromkeys(KV_TYPES), self.kv_dtype, f"kv_dtype of model {self.name}")
        for name, most in (
            ("unquantised_parameters", self.parameters),
            ("active_parameters", self.parameters),
            ("experts_per_token", self.experts),
        ):
            value = getattr(self, name)
            if value is not None and not 0 <= value <= most:
                raise ValueError(f"{name} of model {self.name} is {value}; it must be from 0 to {most}")

    @property
    def active(self) -> int:
        """Weights that a token passes."""
        return self.parameters if self.active_parameters is None else self.active_parameters

    @property
    def cached(self) -> tuple[KvLayers, ...]:
        """What the layers cache, by kind."""
        return self.kv_layers or (KvLayers(self.layers, 2 * self.kv_heads * self.head_dim, self.kv_heads),)


_LOWEST = {
    "layers": 1,
    "hidden_size": 1,
    "intermediate_size": 1,
    "heads": 1,
    "kv_heads": 1,
    "head_dim": 1,
    "parameters": 1,
    "vocab_size": 1,
    "max_model_len": 1,
    "bytes_per_parameter": 1,
    "unquantised_parameters": 0,
    "experts": 0,
    "experts_per_token": 0,
    "state_bytes_per_request": 0,
}
