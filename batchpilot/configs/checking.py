"""Checking a configuration file of either kind, tuner or scenario, without running anything."""

from __future__ import annotations

import warnings
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from batchpilot.configs.errors import ConfigError
from batchpilot.configs.kinds import kind_of, wrong_kind
from batchpilot.configs.reading import read_yaml
from batchpilot.configs.tuner_files import SECTION, load_tuner_config

_SCENARIO_KEYS = ("device", "workload")


@dataclass(frozen=True)
class FileCheck:
    """What is wrong with a file, and what is unusual.

    Attributes:
        path: the file.
        kind: "tuner" or "scenario"; "unknown" when it could not be read that far.
        errors: message by key; the empty key for the file itself.
        warnings: what is allowed and worth a second look.
    """

    path: Path
    kind: str
    errors: dict[str, str] = field(default_factory=dict)
    warnings: list[str] = field(default_factory=list)

    @property
    def valid(self) -> bool:
        """Whether the file can be used."""
        return not self.errors


def file_kind(path: str | Path) -> str:
    """What a configuration file holds: "scenario" if it names a device or a workload, else "tuner".

    Args:
        path: the file.

    Raises:
        ConfigError: the file is not YAML, no mapping, or a file of ours of another kind.
        OSError: the file cannot be read.
    """
    data = read_yaml(path).data
    if kind_of(data) not in (None, "tuner", "scenario"):
        raise ConfigError(wrong_kind(path, data, "tuner"))
    return "scenario" if SECTION not in data and any(key in data for key in _SCENARIO_KEYS) else "tuner"


def load_plain(path: str | Path) -> dict[str, Any]:
    """A configuration file of either kind, validated, with its defaults filled in, as plain data that reads back.

    Args:
        path: the file.

    Raises:
        ConfigError: the file is not valid.
        OSError: the file cannot be read.
    """
    if file_kind(path) == "tuner":
        return {SECTION: load_tuner_config(path).to_dict()}
    from batchpilot.configs.scenario import load_scenario

    return load_scenario(path).model_dump(mode="json", exclude_none=True)


def check_file(path: str | Path) -> FileCheck:
    """Check a configuration file; a file that cannot be read is wrong too, and nothing is raised.

    Args:
        path: the file.
    """
    path = Path(path)
    kind = "unknown"
    with warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("always")
        try:
            kind = file_kind(path)
            load_plain(path)
        except ConfigError as error:
            return FileCheck(path, kind, error.problems or {"": str(error)})
        except OSError as error:
            return FileCheck(path, kind, {"": f"cannot read {path}: {error.strerror or error}"})
    return FileCheck(path, kind, warnings=[str(warning.message) for warning in caught])
