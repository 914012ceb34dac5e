"""What it costs to encode images: T_encode, the term that a vision tower adds to a step. Times in ms, sides in pixels.

A pass of the tower over n images of one size takes `pass_ms + token_ms * n * tokens`: every pass reads the weights and
launches the layers, and each patch is computed. So images of one size are cheaper together.
"""

from __future__ import annotations

import math
from dataclasses import dataclass

from batchpilot.configs.catalogue import DeviceSpec
from batchpilot.core.image_sizes import SIDES_PX, image_tokens
from batchpilot.core.names import lookup
from batchpilot.latency.model.roofline import ATTAINABLE

MOST_TOGETHER = 32
"""Images of a pass, and requests of a batch, in the vision document."""

KEPT_FEATURES = 10_000
"""Images whose features the document's cache holds."""

_BYTES = 2


@dataclass(frozen=True, slots=True)
class VisionTower:
    """The encode step of an engine and its feature cache; all zero, the default, is an encoding that costs nothing.

    Attributes:
        pass_ms: time of a pass whatever its images, >= 0.
        token_ms: time of an image token in it, >= 0.
        feature_cache: images whose features are kept, the least recently used dropped first, >= 0; 0 keeps none.
        together: most images of one size in a pass, >= 1; 1 encodes each alone.

    Raises:
        ValueError: a value is outside its bound; the message names it.
    """

    pass_ms: float = 0.0
    token_ms: float = 0.0
    feature_cache: int = KEPT_FEATURES
    together: int = MOST_TOGETHER

    def __post_init__(self) -> None:
        for name in ("pass_ms", "token_ms"):
            value = getattr(self, name)
            if not (math.isfinite(value) and value >= 0):
                raise ValueError(f"{name} of the vision tower is {value}; it must be >= 0 ms and finite")
        for name, lowest in (("feature_cache", 0), ("together", 1)):
            value = getattr(self, name)
            if value < lowest:
                raise ValueError(f"{name} of the vision tower is {value}; it must be >= {lowest}")

    def encode_ms(self, side_px: int, images: int = 1) -> float:
        """Time to encode images of one size together, in as many passes as it takes.

        Args:
            side_px: their side, one of `core.image_sizes.SIDES_PX`.
            images: how many, >= 0.

        Raises:
            ValueError: an unknown side.
        """
        if side_px not in SIDES_PX:
            raise ValueError(f"side_px is {side_px}; it must be one of {', '.join(map(str, SIDES_PX))}")
        passes = -(-images // self.together)
        return passes * self.pass_ms + images * self.token_ms * int(image_tokens(side_px))

    def total_ms(self, side_px: int, output_tokens: int, decode_ms: float, overhead_ms: float = 0.0) -> float:
        """T_total = T_encode + N * T_decode + T_overhead of a request alone, as the vision document has it.

        Args:
            side_px: side of its image.
            output_tokens: N.
            decode_ms: time of an output token.
            overhead_ms: all else, the prompt's computation among it.

        Raises:
            ValueError: an unknown side.
        """
        return self.encode_ms(side_px) + output_tokens * decode_ms + overhead_ms


@dataclass(frozen=True, slots=True)
class TowerShape:
    """What a tower's time follows from.

    Attributes:
        parameters: weights.
        layers: transformer blocks.
    """

    parameters: float
    layers: int


TOWERS: dict[str, TowerShape] = {
    "clip-vit-l14": TowerShape(0.304e9, 24),
    "siglip-so400m": TowerShape(0.428e9, 27),
    "internvit-6b": TowerShape(5.9e9, 48),
}
"""Published sizes: of LLaVA (CLIP, Radford et al. 2021), PaliGemma and others (SigLIP, Zhai et al. 2023) and InternVL
(Chen et al. 2023)."""


def tower_bytes(tower: str | None) -> float:
    """Memory that a tower's weights take, two bytes each: towers stay at 16 bits where a model's weights are quantised.

    Args:
        tower: one of `TOWERS`; None, where only its times are known, takes nothing.

    Raises:
        ValueError: an unknown tower; the message names the closest one.
    """
    return 0.0 if tower is None else _BYTES * lookup(TOWERS, tower, "vision tower").parameters


def tower_on(device: DeviceSpec, tower: str) -> VisionTower:
    """Estimate the encode step of a tower: products at the share of the peak that a model reaches, and layers.

    A stated guess: the constants are those fitted to language models, and attention's own operations, 9 % of a
    ViT-L/14's at 336 pixels, are left out. For CLIP's ViT-L/14 and one image of 336 pixels on an H100 it says 2.1 ms,
    where a report on vLLM has 4.8 (fridayswithfaraday.com, vision encoders in vLLM v1).

    Args:
        device: the device.
        tower: one of `TOWERS`.

    Raises:
        ValueError: an unknown tower; the message names the closest one.
    """
    shape = lookup(TOWERS, tower, "vision tower")
    attainable = ATTAINABLE[device.vendor]
    read_ms = _BYTES * shape.parameters / (device.bandwidth_gb_per_s * 1e6 * attainable.bandwidth)
    return VisionTower(
        pass_ms=shape.layers * attainable.layer_ms + read_ms,
        token_ms=2 * shape.parameters / (device.peak_tflops * 1e9 * attainable.compute),
    )
