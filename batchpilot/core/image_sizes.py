"""The sizes of images that vision towers take, and their tokens. Sides in pixels.

An image is cut into patches of 14 x 14 pixels, and each becomes one token of the prompt: 256, 576 or 1024 tokens.

Source: LLaVA's towers (ViT-L/14); the sizes are those of the batching documents.
"""

from __future__ import annotations

import numpy as np
from numpy.typing import ArrayLike, NDArray

PATCH_PX = 14
"""Side of a patch."""

SIDES_PX = (224, 336, 448)
"""Sides of the square images that a tower takes."""

MOST_IMAGES = 8
"""Of a request."""

PATCHES_OF_SMALLEST = SIDES_PX[0] // PATCH_PX
PATCHES_MORE = (SIDES_PX[1] - SIDES_PX[0]) // PATCH_PX
"""Patches along a side: of the smallest size, and by how many each next one has more."""


def image_tokens(side_px: ArrayLike) -> NDArray[np.int64]:
    """Tokens of images, 0 for none.

    Args:
        side_px: sides, any shape; 0 for no image.
    """
    return (np.asarray(side_px, np.int64) // PATCH_PX) ** 2
