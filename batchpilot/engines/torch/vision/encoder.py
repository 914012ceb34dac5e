"""Encodes the images of a step, those of one size together, and keeps the embeddings of the last ones. Times in ms."""

from __future__ import annotations

import time
from collections import OrderedDict
from collections.abc import Sequence

import numpy as np
import torch

from batchpilot.engines.torch.device import synchronise
from batchpilot.engines.torch.vision.shown import Shown
from batchpilot.engines.torch.vision.tower import TowerSize, VisionTransformer
from batchpilot.latency.model.vision_tower import KEPT_FEATURES, MOST_TOGETHER
from batchpilot.workloads.prompt_images import PromptImage

MOST_MB = 256.0
"""Of all embeddings that are kept."""


class VisionEncoder:
    """A tower with its feature cache.

    Args:
        hidden: width of the language model's embeddings.
        scale: standard deviation of its token embeddings.
        device: where it runs.
        dtype: that is computed in.
        size: of the tower.
        kept: most images whose embeddings are kept, the least recently used dropped first; 0 keeps none.
        most_mb: of all of them together.
        together: most images in a pass.
        seed: of its random weights.

    Attributes:
        images: that were asked for so far.
        hits: of these, those whose embeddings were kept.
        passes: of the tower so far.
        spent_ms: on passes so far.

    Raises:
        ValueError: a bound is below 0, or `together` below 1.
    """

    def __init__(
        self,
        hidden: int,
        scale: float,
        device: torch.device,
        dtype: torch.dtype,
        *,
        size: TowerSize | None = None,
        kept: int = KEPT_FEATURES,
        most_mb: float = MOST_MB,
        together: int = MOST_TOGETHER,
        seed: int = 0,
    ) -> None:
        if kept < 0 or most_mb < 0 or together < 1:
            raise ValueError(f"kept {kept} and most_mb {most_mb} must be >= 0, together {together} >= 1")
        with torch.random.fork_rng(), torch.device("cpu"):
            torch.manual_seed(seed)
            self._tower = VisionTransformer(size or TowerSize(), hidden, scale)
        self._tower = self._tower.to(device, dtype).eval()
        self._device, self._dtype = device, dtype
        self._kept, self._most_bytes, self._together = kept, most_mb * 2**20, together
        self._features: OrderedDict[tuple[int, bytes], torch.Tensor] = OrderedDict()
        self._held_bytes = 0
        self.images = self.hits = self.passes = 0
        self.spent_ms = 0.0

    def __len__(self) -> int:
        return len(self._features)

    @property
    def weight_bytes(self) -> int:
        """Bytes of the tower's weights."""
        return sum(weight.numel() * weight.element_size() for weight in self._tower.parameters())

    def embeddings(self, shown: Sequence[Shown]) -> list[torch.Tensor]:
        """Embeddings of what a step shows; images that are not kept are encoded now, equal ones once.

        Args:
            shown: in any order; an image counts as asked for where it begins.

        Returns:
            One a part, shape (tokens of the part, hidden).
        """
        images = [part.image for part in shown]
        keys = [(image.side_px, image.digest) for image in images]
        found = {key: self._features[key] for key in keys if key in self._features}
        missing = {key: image for key, image in zip(keys, images, strict=True) if key not in found}
        begins = [part.first == 0 for part in shown]
        self.images += sum(begins)
        self.hits += sum(first and key in found for first, key in zip(begins, keys, strict=True))
        if missing:
            started = time.perf_counter()
            for side_px in sorted({side_px for side_px, _ in missing}):
                group = [image for image in missing.values() if image.side_px == side_px]
                for first in range(0, len(group), self._together):
                    part = group[first : first + self._together]
                    told = self._encode(part, side_px)
                    found |= {(side_px, image.digest): told[k] for k, image in enumerate(part)}
            synchronise(self._device)
            self.spent_ms += 1000.0 * (time.perf_counter() - started)
        for key in keys:
            self._keep(key, found[key])
        return [found[key][part.first : part.first + part.tokens] for part, key in zip(shown, keys, strict=True)]

    def _encode(self, images: Sequence[PromptImage], side_px: int) -> list[torch.Tensor]:
        self.passes += 1
        octets = np.stack([np.frombuffer(image.pixels, np.uint8).reshape(side_px, side_px, 3) for image in images])
        pixels = torch.from_numpy(octets).to(self._device).permute(0, 3, 1, 2).to(self._dtype) / 127.5 - 1.0
        # Of memory of their own, so that one that is dropped frees its place.
        return [embedding.clone() for embedding in self._tower(pixels)]

    def _keep(self, key: tuple[int, bytes], embedding: torch.Tensor) -> None:
        if key not in self._features:
            self._features[key] = embedding
            self._held_bytes += _bytes(embedding)
        self._features.move_to_end(key)
        while self._features and (len(self._features) > self._kept or self._held_bytes > self._most_bytes):
            self._held_bytes -= _bytes(self._features.popitem(last=False)[1])


def _bytes(tensor: torch.Tensor) -> int:
    return int(tensor.numel() * tensor.element_size())
