"""Images in the prompts of single requests, as a server hands them to its engine. Sides in pixels."""

from __future__ import annotations

import hashlib
import secrets
from collections.abc import Sequence
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

from batchpilot.core.image_sizes import PATCH_PX, SIDES_PX

_KEY = secrets.token_bytes(32)
"""Nobody outside knows the token ids that stand for an image, so nobody can send them as text."""


class PromptImage(NamedTuple):
    """A decoded image and where it stands in a prompt.

    Attributes:
        start: place of its first token.
        side_px: one of `SIDES_PX`.
        pixels: red, green and blue of each pixel, row by row, side * side * 3 bytes.
        digest: of the pixels; equal images have equal ones.
    """

    start: int
    side_px: int
    pixels: bytes
    digest: bytes

    @classmethod
    def of(cls, start: int, side_px: int, pixels: bytes) -> PromptImage:
        """An image by its pixels.

        Args:
            start: place of its first token.
            side_px: its side.
            pixels: as above.

        Raises:
            ValueError: the side is none of `SIDES_PX`, or the pixels are not as many.
        """
        if side_px not in SIDES_PX or len(pixels) != 3 * side_px * side_px:
            raise ValueError(
                f"an image of {len(pixels)} bytes is none of {side_px} x {side_px} x 3; sides are "
                f"{', '.join(map(str, SIDES_PX))} px"
            )
        return cls(start, side_px, pixels, hashlib.blake2b(pixels, digest_size=16).digest())

    @property
    def tokens(self) -> int:
        """How many tokens of the prompt it is."""
        return (self.side_px // PATCH_PX) ** 2

    @property
    def end(self) -> int:
        """Place behind its last token."""
        return self.start + self.tokens


def with_image_ids(prompt: NDArray[np.int64], images: Sequence[PromptImage], vocabulary: int) -> NDArray[np.int64]:
    """A prompt in which every image stands for itself: equal images by equal ids, different ones by others.

    The ids are never looked up in the embedding; they tell the prefix cache which image it is.

    Args:
        prompt: token ids, shape (n,); those at the places of images mean nothing.
        images: in order, none within another.
        vocabulary: number of token ids.

    Raises:
        ValueError: images overlap or reach beyond the prompt's end.
    """
    ids, end = prompt.copy(), 0
    for image in images:
        if image.start < end or image.end > len(prompt):
            raise ValueError(
                f"an image of {image.tokens} tokens at token {image.start} does not fit into a prompt of {len(prompt)} "
                f"behind token {end}"
            )
        end = image.end
        seed = hashlib.blake2b(image.digest + bytes([image.side_px % 251]), key=_KEY, digest_size=32).digest()
        draws = np.random.Generator(np.random.Philox(key=int.from_bytes(seed[:16], "little")))
        ids[image.start : image.end] = draws.integers(0, vocabulary, image.tokens)
    return ids
