"""Models: the dimensions that decide how much memory and work a token takes."""

from __future__ import annotations

from dataclasses import dataclass
from functools import cache

from batchpilot.configs.catalogue._finding import find, read_entries


@dataclass(frozen=True, slots=True, kw_only=True)
class ModelSpec:
    """A decoder-only transformer.

    Attributes:
        name: what tables call it.
        layers: decoder layers.
        hidden_size: width of the residual stream.
        intermediate_size: width of the feed-forward layer.
        heads: query heads.
        kv_heads: key and value heads; fewer than `heads` with grouped-query attention.
        head_dim: values in a head.
        parameters: weights, embeddings included.
        vocab_size: tokens in the vocabulary.
        max_model_len: longest prompt plus output, tokens.
        bytes_per_parameter: size of a weight as published; the KV cache is kept in the same type.
        aliases: other names, repository names among them.
        source: where the figures come from.

    Raises:
        ValueError: a figure is not above 0, or `kv_heads` does not divide `heads`; the message names it.
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
    aliases: tuple[str, ...] = ()
    source: str = ""

    def __post_init__(self) -> None:
        for field in (
            "layers",
            "hidden_size",
            "intermediate_size",
            "heads",
            "kv_heads",
            "head_dim",
            "parameters",
            "vocab_size",
            "max_model_len",
            "bytes_per_parameter",
        ):
            if not getattr(self, field) > 0:
                raise ValueError(f"{field} of model {self.name} is {getattr(self, field)}; it must be above 0")
        if self.heads % self.kv_heads:
            raise ValueError(f"kv_heads {self.kv_heads} of model {self.name} does not divide its heads {self.heads}")


@cache
def _catalogue() -> dict[str, ModelSpec]:
    return read_entries("models.yaml", ModelSpec)


def models() -> tuple[ModelSpec, ...]:
    """Every catalogued model."""
    return tuple(_catalogue().values())


def model(name: str) -> ModelSpec:
    """The catalogued model of that name or alias.

    Args:
        name: "Llama-2-7B", "meta-llama/Llama-2-7b-hf"; case, blanks, `-` and `_` make no difference.

    Raises:
        ValueError: no such model; the message names the closest known ones.
    """
    return find(_catalogue(), name, "model")
