"""The sizes of a model that its engine must know."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any


@dataclass(frozen=True, slots=True)
class ModelShape:
    """What the engine must know of a model.

    Attributes:
        layers: decoder layers, each with its own keys and values.
        kv_heads: heads that keys and values have.
        head_dim: size of a head.
        vocabulary: number of token ids.
        max_positions: positions the model was made for, None where it does not say.
    """

    layers: int
    kv_heads: int
    head_dim: int
    vocabulary: int
    max_positions: int | None

    @classmethod
    def of(cls, config: Any) -> ModelShape:
        """Read a `transformers` configuration.

        Args:
            config: of a decoder-only model.
        """
        heads = config.num_attention_heads
        return cls(
            layers=config.num_hidden_layers,
            kv_heads=getattr(config, "num_key_value_heads", None) or heads,
            head_dim=getattr(config, "head_dim", None) or config.hidden_size // heads,
            vocabulary=config.vocab_size,
            max_positions=getattr(config, "max_position_embeddings", None),
        )
