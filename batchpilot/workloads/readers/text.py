"""A trace file as text, plain or compressed."""

from __future__ import annotations

import gzip
import zlib
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import TextIO

BROKEN = (EOFError, zlib.error, gzip.BadGzipFile)
"""What reading raises where a compressed file is cut off or damaged."""


@contextmanager
def open_text(path: Path) -> Iterator[TextIO]:
    """The file as text: bytes that are no UTF-8 are replaced, so that they spoil only the field they stand in.

    Args:
        path: of it.

    Raises:
        OSError: it cannot be opened.
    """
    with path.open("rb") as raw:
        compressed = raw.read(2) == b"\x1f\x8b"
    opener = gzip.open if compressed else open
    with opener(path, "rt", encoding="utf-8-sig", errors="replace") as file:
        yield file
