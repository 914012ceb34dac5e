"""Where a result comes from: configuration hash, git revision and versions, written beside every figure."""

from __future__ import annotations

import hashlib
import json
import platform
import subprocess
from functools import cache
from importlib import metadata
from pathlib import Path
from typing import Any


def config_hash(config: object) -> str:
    """Twelve hexadecimal digits that change when the configuration does.

    Args:
        config: plain data (dictionaries, lists, numbers, strings); other values enter by their `str`.
    """
    text = json.dumps(config, sort_keys=True, default=str)
    return hashlib.sha256(text.encode()).hexdigest()[:12]


@cache
def git_revision() -> str:
    """The revision of the checkout this package runs from, "-dirty" when changed, "unknown" outside one."""
    folder = Path(__file__).resolve().parent

    def git(*arguments: str) -> str:
        command = ["git", "-C", str(folder), *arguments]
        return subprocess.run(command, capture_output=True, text=True, check=True, timeout=10).stdout.strip()

    try:
        revision = git("rev-parse", "--short=12", "HEAD")
        return revision + ("-dirty" if git("status", "--porcelain", "--untracked-files=no") else "")
    except (OSError, subprocess.SubprocessError):
        return "unknown"


@cache
def versions() -> dict[str, str]:
    """Versions of Python and of the packages that decide numbers."""
    found = {"python": platform.python_version()}
    for package in ("batchpilot", "numpy", "numba", "scipy", "gymnasium"):
        try:
            found[package] = metadata.version(package)
        except metadata.PackageNotFoundError:
            found[package] = "absent"
    return found


def provenance(seed: int | None = None, config: object | None = None) -> dict[str, Any]:
    """Everything a result file states about its origin.

    Args:
        seed: the run's seed.
        config: the run's configuration as plain data.
    """
    return {
        "seed": seed,
        "config_hash": config_hash(config) if config is not None else None,
        "git_revision": git_revision(),
        "versions": " ".join(f"{name}={version}" for name, version in versions().items()),
    }
