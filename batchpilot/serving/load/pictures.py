"""Pictures for requests that hold images: made, not fetched, and equal where the images are. Sides in pixels."""

from __future__ import annotations

import base64
import struct
import zlib

import numpy as np
from numpy.typing import NDArray

from batchpilot.core.image_sizes import PATCH_PX
from batchpilot.workloads.images import Images

MOST_DIFFERENT = 4096
"""Pictures that are made and kept, some 40 MB at most; of more different images every so many look alike."""

_PNG = b"\x89PNG\r\n\x1a\n"
_GREY_8_BIT = (8, 0, 0, 0, 0)


class Pictures:
    """Data URLs of the images of requests, each made when it is asked for the first time.

    Args:
        images: of the requests.
        seed: of their shades.
    """

    def __init__(self, images: Images, seed: int = 0) -> None:
        self._images, self._seed = images, seed
        self._contents = images.contents() % MOST_DIFFERENT
        self._made: dict[tuple[int, int], str] = {}

    def __getitem__(self, row: int) -> list[str]:
        """The pictures of a request, in its prompt's order; none where it has none."""
        each = zip(self._contents[row].tolist(), self._images.side_px[row].tolist(), strict=True)
        return [self._picture(content, side_px) for content, side_px in each if side_px]

    def _picture(self, content: int, side_px: int) -> str:
        key = (content, side_px)
        if key not in self._made:
            shades = np.random.default_rng([self._seed, *key]).integers(0, 256, (side_px // PATCH_PX,) * 2, np.uint8)
            told = base64.b64encode(png(np.kron(shades, np.ones((PATCH_PX, PATCH_PX), np.uint8)))).decode()
            self._made[key] = f"data:image/png;base64,{told}"
        return self._made[key]


def png(grey: NDArray[np.uint8]) -> bytes:
    """A PNG file.

    Args:
        grey: shades, 0 black, 255 white, shape (height, width).

    Source: PNG specification, third edition: chunks, IHDR, filter type 0.
    """
    height, width = grey.shape
    rows = np.concatenate([np.zeros((height, 1), np.uint8), grey], axis=1)
    head = _chunk(b"IHDR", struct.pack(">IIBBBBB", width, height, *_GREY_8_BIT))
    return _PNG + head + _chunk(b"IDAT", zlib.compress(rows.tobytes(), 1)) + _chunk(b"IEND", b"")


def _chunk(kind: bytes, data: bytes) -> bytes:
    return struct.pack(">I", len(data)) + kind + data + struct.pack(">I", zlib.crc32(kind + data))
