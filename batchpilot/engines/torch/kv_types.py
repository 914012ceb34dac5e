"""In which type the KV cache is kept: that of the model's activations, or 8 bits, which hold twice the context.

`int8` keeps a scale for each token and head (symmetric, as weights are); `fp8` is E4M3 without scales, as servers keep
it unless a checkpoint brings scales. Attention computes in the model's own type either way.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

import torch

from batchpilot.core.names import lookup
from batchpilot.engines.torch.cache import PagedKVCache, zeros
from batchpilot.engines.torch.quantisation import INT8_LARGEST
from batchpilot.engines.torch.shape import ModelShape

_FP8 = torch.float8_e4m3fn
_SCALE = torch.float32


class Int8KVCache(PagedKVCache):
    """Keys and values in 8-bit whole numbers with a scale for each token and head.

    Args:
        shape: the model's.
        blocks: number of blocks.
        block_size: tokens in a block.
        dtype: that attention computes in.
        device: where they live.
    """

    def __init__(
        self, shape: ModelShape, blocks: int, block_size: int, dtype: torch.dtype, device: torch.device
    ) -> None:
        super().__init__(shape, blocks, block_size, torch.int8, device)
        self._dtype = dtype
        size = (blocks, block_size, shape.kv_heads)
        self._scales = [[zeros(size, _SCALE, device) for _ in range(shape.layers)] for _ in range(2)]

    def write(self, layer: int, slots: torch.Tensor, keys: torch.Tensor, values: torch.Tensor) -> None:
        """Keep a step's keys and values; see `PagedKVCache.write`."""
        for kept, scales, given in zip((self.keys, self.values), self._scales, (keys, values), strict=True):
            largest = given.float().abs().amax(-1)
            scale = torch.where(largest > 0, largest / INT8_LARGEST, torch.ones_like(largest))
            numbers = (given / scale.unsqueeze(-1)).round_().to(torch.int8)
            kept[layer].flatten(0, 1).index_copy_(0, slots, numbers)
            scales[layer].flatten(0, 1).index_copy_(0, slots, scale)

    def contexts(self, layer: int, table: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
        """Keys and values of some blocks, one after the other; see `PagedKVCache.contexts`."""
        found = []
        for numbers, scales in zip(super().contexts(layer, table), self._scales, strict=True):
            scale = scales[layer].index_select(0, table).flatten(0, 1)
            found.append((numbers * scale.unsqueeze(-1)).to(self._dtype))
        return found[0], found[1]


class Fp8KVCache(PagedKVCache):
    """Keys and values as 8-bit floats (E4M3) without scales; what is larger than 448 becomes 448.

    Args:
        shape: the model's.
        blocks: number of blocks.
        block_size: tokens in a block.
        dtype: that attention computes in.
        device: where they live.
    """

    def __init__(
        self, shape: ModelShape, blocks: int, block_size: int, dtype: torch.dtype, device: torch.device
    ) -> None:
        # Kept as octets, which torch copies and gathers on every device; FP8 numbers it only converts.
        super().__init__(shape, blocks, block_size, torch.uint8, device)
        self._dtype = dtype

    def write(self, layer: int, slots: torch.Tensor, keys: torch.Tensor, values: torch.Tensor) -> None:
        """Keep a step's keys and values; see `PagedKVCache.write`."""
        largest = torch.finfo(_FP8).max
        octets = [given.clamp(-largest, largest).to(_FP8).view(torch.uint8) for given in (keys, values)]
        super().write(layer, slots, octets[0], octets[1])

    def contexts(self, layer: int, table: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
        """Keys and values of some blocks, one after the other; see `PagedKVCache.contexts`."""
        keys, values = super().contexts(layer, table)
        return keys.view(_FP8).to(self._dtype), values.view(_FP8).to(self._dtype)


@dataclass(frozen=True, slots=True)
class KVType:
    """One way to keep keys and values.

    Attributes:
        cache: the class that keeps them.
        value_bytes: of a key's or value's number; None for the size of the model's type.
        head_bytes: beside the numbers of a head.
    """

    cache: type[PagedKVCache]
    value_bytes: int | None = None
    head_bytes: int = 0

    def bytes_per_token(self, shape: ModelShape, dtype: torch.dtype) -> int:
        """KV cache of one token over all layers.

        Args:
            shape: the model's.
            dtype: of the model.
        """
        size = dtype.itemsize if self.value_bytes is None else self.value_bytes
        return int(2 * shape.layers * shape.kv_heads * (shape.head_dim * size + self.head_bytes))


KV_TYPES: Mapping[str, KVType] = {
    "auto": KVType(PagedKVCache),
    "int8": KVType(Int8KVCache, 1, _SCALE.itemsize),
    "fp8": KVType(Fp8KVCache, 1),
}
"""By the name that users type; auto is the model's own type."""


def kv_type(name: str) -> KVType:
    """How keys and values are kept.

    Args:
        name: a key of `KV_TYPES`.

    Raises:
        ValueError: it is none.
    """
    return lookup(KV_TYPES, name, "kv_dtype")
