"""Devices of the catalogue."""

from __future__ import annotations

from functools import cache

from batchpilot.configs.catalogue._additions import added
from batchpilot.configs.catalogue._finding import SHIPPED, find, read_entries
from batchpilot.configs.catalogue.device_spec import DeviceSpec


@cache
def _catalogue() -> dict[str, DeviceSpec]:
    return read_entries(SHIPPED / "devices.yaml", "device", DeviceSpec)


def devices() -> tuple[DeviceSpec, ...]:
    """Every catalogued device."""
    return tuple((_catalogue() | added().devices).values())


def device(name: str) -> DeviceSpec:
    """The catalogued device of that name or alias.

    Args:
        name: "A100-40GB", "a100 40gb"; case, blanks, `-` and `_` make no difference.

    Raises:
        ValueError: no such device; the message names the closest known ones.
    """
    return find(_catalogue() | added().devices, name, "device")
