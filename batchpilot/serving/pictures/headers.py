"""How large a PNG or JPEG is, by its first bytes: nothing is decoded. Sizes in pixels.

Source: PNG specification (IHDR); ITU T.81 (SOF markers).
"""

from __future__ import annotations

import base64
import binascii
from typing import Any

from batchpilot.core.image_sizes import SIDES_PX

DETAIL_SIDES = {"low": SIDES_PX[0], "high": SIDES_PX[-1]}
"""OpenAI's `detail`, where it is not "auto"."""

DEFAULT_SIDE = SIDES_PX[1]
"""Of a picture whose size is not known."""

_PNG = b"\x89PNG\r\n\x1a\n"
_JPEG = b"\xff\xd8"
_HEAD_CHARACTERS = 2**17
"""Base64 that is looked at: a JPEG may have 64 KiB of a camera's remarks before its size."""

_FRAMES = frozenset(range(0xC0, 0xD0)) - {0xC4, 0xC8, 0xCC}


def size_of(data: bytes) -> tuple[int, int] | None:
    """Width and height of a picture.

    Args:
        data: its beginning.

    Returns:
        None where that is no PNG or JPEG, or ends before it says so.
    """
    if data.startswith(_PNG):
        if len(data) < 24 or data[12:16] != b"IHDR":
            return None
        return int.from_bytes(data[16:20], "big"), int.from_bytes(data[20:24], "big")
    return _jpeg_size(data) if data.startswith(_JPEG) else None


def side_for(size: tuple[int, int] | None, detail: str | None = None) -> int:
    """The side that a picture is brought to: what `detail` says, else the smallest that loses no pixel.

    Args:
        size: width and height, None for unknown.
        detail: "low", "high" or "auto".
    """
    if detail in DETAIL_SIDES:
        return DETAIL_SIDES[detail]
    if size is None:
        return DEFAULT_SIDE
    return next((side for side in SIDES_PX if side >= max(size)), SIDES_PX[-1])


def side_of_part(part: dict[str, Any]) -> int:
    """The side of the picture of an OpenAI `image_url` part, as far as it can be told cheaply.

    Args:
        part: parsed JSON, in which anything may be wrong.
    """
    picture = part.get("image_url")
    url = picture.get("url") if isinstance(picture, dict) else picture
    detail = picture.get("detail") if isinstance(picture, dict) else part.get("detail")
    size = None
    if isinstance(url, str) and url[:5].lower() == "data:":
        start = url.find(",", 0, 200) + 1
        head = url[start : start + _HEAD_CHARACTERS] if start else ""
        try:
            size = size_of(base64.b64decode(head[: len(head) // 4 * 4]))
        except (binascii.Error, ValueError):
            size = None
    return side_for(size, detail if isinstance(detail, str) else None)


def _jpeg_size(data: bytes) -> tuple[int, int] | None:
    place = 2
    while place + 9 <= len(data):
        if data[place] != 0xFF:
            return None
        marker = data[place + 1]
        if marker == 0xFF:  # fill
            place += 1
        elif marker in _FRAMES:
            height, width = (int.from_bytes(data[place + k : place + k + 2], "big") for k in (5, 7))
            return width, height
        elif marker == 0x01 or 0xD0 <= marker <= 0xD8:
            place += 2
        else:
            place += 2 + int.from_bytes(data[place + 2 : place + 4], "big")
    return None
