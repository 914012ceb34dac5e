"""A small vision transformer: patches of 14 pixels, a few blocks, a projection to the language model's width.

The way is that of LLaVA: ViT without a class token, then two layers into the embedding space. Its weights are random;
what it costs and where its output goes is real, what it sees means nothing.
"""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import nn
from torch.nn import functional

from batchpilot.core.image_sizes import PATCH_PX

_WAVES = 10_000.0


@dataclass(frozen=True, slots=True)
class TowerSize:
    """Sizes of a tower.

    Attributes:
        width: of its embeddings; a multiple of 4 and of `heads`.
        layers: transformer blocks.
        heads: of attention.
    """

    width: int = 64
    layers: int = 3
    heads: int = 4


class VisionTransformer(nn.Module):  # type: ignore[misc]
    """From images to embeddings of the language model.

    Args:
        size: of the tower.
        hidden: width of the language model's embeddings.
        scale: standard deviation of its token embeddings, which image embeddings get, too.
    """

    def __init__(self, size: TowerSize, hidden: int, scale: float) -> None:
        super().__init__()
        self.patches = nn.Conv2d(3, size.width, PATCH_PX, stride=PATCH_PX)
        self.blocks = nn.ModuleList(_Block(size.width, size.heads) for _ in range(size.layers))
        self.norm = nn.LayerNorm(size.width)
        self.project = nn.Sequential(nn.Linear(size.width, hidden), nn.GELU(), nn.Linear(hidden, hidden))
        self.scale = scale

    def forward(self, pixels: torch.Tensor) -> torch.Tensor:
        """Encode images of one size together.

        Args:
            pixels: -1 to 1, shape (n, 3, side, side).

        Returns:
            Embeddings, row by row of patches, shape (n, (side / 14) ** 2, hidden).
        """
        patches = self.patches(pixels)
        states = patches.flatten(2).transpose(1, 2) + _places(patches)
        for block in self.blocks:
            states = block(states)
        told: torch.Tensor = self.project(self.norm(states))
        return functional.layer_norm(told, told.shape[-1:]) * self.scale


class _Block(nn.Module):  # type: ignore[misc]
    def __init__(self, width: int, heads: int) -> None:
        super().__init__()
        self.heads = heads
        self.before_attention, self.before_mlp = nn.LayerNorm(width), nn.LayerNorm(width)
        self.qkv, self.out = nn.Linear(width, 3 * width), nn.Linear(width, width)
        self.mlp = nn.Sequential(nn.Linear(width, 4 * width), nn.GELU(), nn.Linear(4 * width, width))

    def forward(self, states: torch.Tensor) -> torch.Tensor:
        qkv = self.qkv(self.before_attention(states)).unflatten(-1, (3, self.heads, -1))
        queries, keys, values = qkv.permute(2, 0, 3, 1, 4)
        heard = functional.scaled_dot_product_attention(queries, keys, values)
        states = states + self.out(heard.transpose(1, 2).flatten(2))
        told: torch.Tensor = states + self.mlp(self.before_mlp(states))
        return told


def _places(patches: torch.Tensor) -> torch.Tensor:
    """Where each patch is, as sines of its row and column: one rule for every size, shape (patches, width)."""
    _, width, rows, columns = patches.shape
    quarter = width // 4
    rates = _WAVES ** (-torch.arange(quarter, device=patches.device) / quarter)
    angles = [torch.arange(n, device=patches.device)[:, None] * rates for n in (rows, columns)]
    down = angles[0][:, None].expand(rows, columns, quarter)
    across = angles[1][None].expand(rows, columns, quarter)
    places = torch.cat([down.sin(), down.cos(), across.sin(), across.cos()], -1)
    return places.flatten(0, 1).to(patches.dtype)
