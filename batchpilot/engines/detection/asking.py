"""Asking the system without ever failing: commands, files and JSON that may be absent, broken or of another version."""

from __future__ import annotations

import json
import math
import subprocess
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

Run = Callable[[Sequence[str]], str | None]
"""Runs a command and gives its output, None where it is absent or fails."""

MB = 2**20
COMMAND_TIMEOUT_S = 10.0


def run_command(command: Sequence[str]) -> str | None:
    """The output of a command, None where it is absent, fails or takes too long.

    Args:
        command: program and arguments.
    """
    try:
        done = subprocess.run(
            command, capture_output=True, text=True, errors="replace", check=True, timeout=COMMAND_TIMEOUT_S
        )
    except (OSError, subprocess.SubprocessError):
        return None
    return done.stdout


def read_text(path: Path) -> str | None:
    """A file's text without surrounding blanks, None where it cannot be read.

    Args:
        path: the file.
    """
    try:
        return path.read_text(encoding="utf-8", errors="replace").strip()
    except OSError:
        return None


def read_json(text: str | None) -> Any:
    """The value of a JSON text, None where there is none.

    Args:
        text: what a command printed.
    """
    try:
        return json.loads(text) if text else None
    except (ValueError, RecursionError):
        return None


def mapping(value: Any) -> Mapping[str, Any]:
    """The value if it is a mapping, else an empty one.

    Args:
        value: part of a JSON document.
    """
    return value if isinstance(value, dict) else {}


def entries(value: Any) -> list[Any]:
    """The value if it is a list, else an empty one.

    Args:
        value: part of a JSON document.
    """
    return value if isinstance(value, list) else []


def number(value: Any) -> float | None:
    """A figure above 0, given as a number or as text; None for anything else.

    Args:
        value: part of a JSON document or a file.
    """
    try:
        found = float(value)
    except (TypeError, ValueError, OverflowError):
        return None
    return found if math.isfinite(found) and found > 0 else None


def megabytes(value: Any) -> float | None:
    """A size in bytes as MB of 2**20 bytes, None where it is no figure above 0.

    Args:
        value: part of a JSON document or a file.
    """
    found = number(value)
    return None if found is None else found / MB
