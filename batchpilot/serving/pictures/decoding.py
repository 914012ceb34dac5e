"""From a data URL to the pixels that a vision tower takes, bounded; what is wrong is said in words. Needs Pillow."""

from __future__ import annotations

import base64
import binascii
import io
import struct
import zlib
from typing import NamedTuple

from batchpilot.core.extras import MissingExtraError
from batchpilot.serving.pictures.headers import side_for, size_of

MOST_BYTES = 8 * 2**20
"""Of a picture as it is sent, once it is no base64 any more."""

MOST_PIXELS = 16 * 2**20
"""Width times height: what a camera takes. A few bytes may claim to be far more."""

MOST_SIDE = 2**14

_KINDS = ("image/png", "image/jpeg", "image/jpg")
_FORMATS = ("PNG", "JPEG")
_BROKEN = (OSError, ValueError, SyntaxError, EOFError, TypeError, IndexError, KeyError, struct.error, zlib.error)
"""What Pillow raises for files that are not what they should be."""


class PictureError(ValueError):
    """A picture that is not taken; the message says what was found, what is allowed and what to do."""


class Picture(NamedTuple):
    """A decoded picture.

    Attributes:
        side_px: of the square that it was brought to.
        pixels: red, green and blue of each pixel, row by row.
    """

    side_px: int
    pixels: bytes


def decode(url: str, detail: str | None = None) -> Picture:
    """Decode the picture of an `image_url` part: brought to a square, what is not square with black beside it.

    Args:
        url: a data URL with a PNG or JPEG in base64.
        detail: "low" for 224 pixels, "high" for 448; otherwise the smallest side that loses none.

    Raises:
        PictureError: another kind of URL, no base64, too many bytes or pixels, or a picture that cannot be read.
        MissingExtraError: Pillow is not installed.
    """
    data = _bytes_of(url)
    size = size_of(data)
    if size is None:
        raise PictureError("the data of the image is neither PNG nor JPEG, or ends before it says its size")
    if min(size) < 1 or max(size) > MOST_SIDE or size[0] * size[1] > MOST_PIXELS:
        raise PictureError(
            f"the image has {size[0]} x {size[1]} pixels; at most {MOST_PIXELS:,} in all and {MOST_SIDE:,} a side are "
            "taken, so send a smaller one"
        )
    return _decoded(data, side_for(size, detail))


def require_pillow() -> None:
    """Say at once what will be missing.

    Raises:
        MissingExtraError: Pillow is not installed.
    """
    try:
        import PIL.Image  # noqa: F401
    except ImportError as error:
        told = f"images need the package Pillow ({error}); it comes with: pip install 'batchpilot[images]'"
        raise MissingExtraError(told, name=error.name) from error


def _bytes_of(url: str) -> bytes:
    head, comma, text = url.partition(",")
    scheme = head.partition(":")[0].lower()
    if scheme != "data":
        raise PictureError(
            f"the image is to be fetched from {url[:60]!r}; this server fetches nothing, so send the image itself: "
            "data:image/png;base64,..."
        )
    kind, *attributes = head[5:].lower().split(";")
    if kind.strip() not in _KINDS or "base64" not in (attribute.strip() for attribute in attributes) or not comma:
        raise PictureError(
            f"the image begins with {head[:60]!r}; it must begin with data:image/png;base64, or image/jpeg"
        )
    if len(text) > MOST_BYTES * 4 // 3 + 4:
        raise PictureError(f"the image has {len(text) * 3 // 4:,} bytes; at most {MOST_BYTES:,} are taken")
    try:
        return base64.b64decode(text, validate=True)
    except (binascii.Error, ValueError) as error:
        raise PictureError(f"the data of the image is no base64: {error}") from None


def _decoded(data: bytes, side_px: int) -> Picture:
    require_pillow()
    from PIL import Image, ImageOps

    try:
        with Image.open(io.BytesIO(data), formats=_FORMATS) as image:
            if image.width * image.height > MOST_PIXELS:
                raise PictureError(f"the image has {image.width} x {image.height} pixels; at most {MOST_PIXELS:,}")
            # A JPEG is decoded at a fraction of its size where that is enough.
            image.draft("RGB", (side_px, side_px))
            upright = ImageOps.exif_transpose(image).convert("RGB")
            return Picture(side_px, ImageOps.pad(upright, (side_px, side_px)).tobytes())
    except PictureError:
        raise
    except (*_BROKEN, Image.DecompressionBombError) as error:
        raise PictureError(f"the image cannot be read as PNG or JPEG: {error}") from None
