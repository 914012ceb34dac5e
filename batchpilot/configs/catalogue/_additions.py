"""Devices and models of the user's own, beside the shipped ones for as long as the process lives."""

from __future__ import annotations

import os
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from batchpilot.configs.catalogue._finding import entries_of
from batchpilot.configs.catalogue.device_spec import DeviceSpec
from batchpilot.configs.errors import ConfigError
from batchpilot.configs.models.entries import make_model
from batchpilot.configs.models.spec import ModelSpec
from batchpilot.configs.reading import read_yaml
from batchpilot.core.names import unknown_name

VARIABLE = "BATCHPILOT_CATALOGUE"
"""Environment variable that names files to add, apart as in `PATH`."""

_SECTIONS = ("devices", "models")


@dataclass
class Additions:
    """What files have added.

    Attributes:
        devices: by name.
        models: by name.
    """

    devices: dict[str, DeviceSpec] = field(default_factory=dict)
    models: dict[str, ModelSpec] = field(default_factory=dict)


_ADDED = Additions()
_READ: set[str] = set()


def added() -> Additions:
    """What has been added so far, and what the environment names: so do the processes that a command starts know it."""
    for path in filter(None, os.environ.get(VARIABLE, "").split(os.pathsep)):
        if path not in _READ:
            _READ.add(path)
            add_catalogue(path)
    return _ADDED


def add_catalogue(path: str | Path) -> Additions:
    """Add the devices and models of a file; one of a shipped name takes its place.

    Args:
        path: a YAML file with `devices` or `models` or both, each a mapping of names to figures as the catalogue has
            them; a model may instead name its `config`, the path of a `config.json` beside the file or its content.

    Returns:
        What the file holds.

    Raises:
        ConfigError: the file is wrong; the message says where. Nothing is added then.
        OSError: it cannot be read.
    """
    file = read_yaml(path)
    for key in file.data:
        if key not in _SECTIONS:
            raise ConfigError(f"{unknown_name(str(key), _SECTIONS, 'key')} ({file.where(key)})")
    if not any(file.data.get(section) for section in _SECTIONS):
        raise ConfigError(f"expected devices or models, found neither (file {path})")

    def resolved(*, name: str, **figures: Any) -> ModelSpec:
        config = figures.get("config")
        if isinstance(config, str):
            figures["config"] = str(Path(path).parent / Path(config).expanduser())
        return make_model(name=name, **figures)

    found = Additions(
        entries_of(file, _section(file.data, "devices"), "device", DeviceSpec, ("devices",)),
        entries_of(file, _section(file.data, "models"), "model", resolved, ("models",)),
    )
    _ADDED.devices |= found.devices
    _ADDED.models |= found.models
    return found


def _section(data: Mapping[str, Any], name: str) -> Any:
    return {} if data.get(name) is None else data[name]
