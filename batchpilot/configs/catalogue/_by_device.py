"""Figures of devices that stand in a file of their own: prices, power."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

from batchpilot.configs.catalogue._devices import device
from batchpilot.configs.catalogue._finding import Entry, read_entries
from batchpilot.configs.errors import ConfigError


def figures_by_device(path: Path, kind: str, make: Callable[..., Entry]) -> dict[str, Entry]:
    """Figures by the device's catalogue name, however the file spells it.

    Args:
        path: a YAML file, a mapping of device to figures.
        kind: what it holds, for messages.
        make: builds an entry from `name` and its figures.

    Raises:
        ConfigError: the file is wrong, or names a device that is not catalogued; the message says where.
        OSError: it cannot be read.
    """
    found: dict[str, Entry] = {}
    for name, figures in read_entries(path, f"{kind} of device", make).items():
        try:
            found[device(name).name] = figures
        except ValueError as error:
            raise ConfigError(f"{error} (file {path})") from None
    return found
