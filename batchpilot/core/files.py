"""Writing files so that nothing is ever half-written (beside first, then renamed), and JSON that every reader takes."""

from __future__ import annotations

import json
import math
import os
import tempfile
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np


def write_atomic(path: str | Path, content: str | bytes) -> Path:
    """Write a file that readers see whole or not at all, also when the machine goes down meanwhile.

    Args:
        path: where; missing folders are made.
        content: text (UTF-8) or bytes.

    Returns:
        The path written.

    Raises:
        OSError: the folder cannot be made or written to; the old file, if any, is untouched.
    """
    path = Path(path)
    path.parent.mkdir(parents=True, exist_ok=True)
    handle, beside = tempfile.mkstemp(dir=path.parent, prefix=f".{path.name}.")
    try:
        with os.fdopen(handle, "wb") as file:
            file.write(content.encode() if isinstance(content, str) else content)
            file.flush()
            os.fsync(file.fileno())
        Path(beside).chmod(0o644)
        Path(beside).replace(path)
    except BaseException:
        Path(beside).unlink(missing_ok=True)
        raise
    return path


def write_json(path: str | Path, value: object) -> Path:
    """Write a value as `json_text`, whole or not at all.

    Args:
        path: where; missing folders are made.
        value: mappings, sequences and scalars.

    Returns:
        The path written.

    Raises:
        OSError: the folder cannot be made or written to; the old file, if any, is untouched.
    """
    return write_atomic(path, json_text(value, indent=1) + "\n")


def json_text(value: object, *, indent: int | None = None) -> str:
    """A value as JSON. Every file, `--json` and answer of a server goes through here.

    Args:
        value: mappings, sequences, scalars and arrays; anything else stands as its text.
        indent: spaces a level; None for one line without blanks.

    Source: RFC 8259, section 6: NaN and infinity are no numbers; here they are null.
    """
    separators = (",", ":") if indent is None else None
    return json.dumps(plain(value), indent=indent, separators=separators, allow_nan=False, default=str)


def plain(value: Any) -> Any:
    """A value as JSON has it: mappings with text as keys, lists, and null for a number that is none.

    Args:
        value: mappings, sequences, scalars and arrays.
    """
    if isinstance(value, Mapping):
        return {str(name): plain(inner) for name, inner in value.items()}
    if isinstance(value, (list, tuple, set, frozenset)):
        return [plain(inner) for inner in value]
    if isinstance(value, (np.generic, np.ndarray)):
        return plain(value.tolist())
    return None if isinstance(value, float) and not math.isfinite(value) else value
