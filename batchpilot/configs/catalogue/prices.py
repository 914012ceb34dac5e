"""What an hour of a device costs: list prices, each with its source and day, and the user's own before them."""

from __future__ import annotations

import math
from dataclasses import dataclass
from datetime import date
from functools import cache
from pathlib import Path

from batchpilot.configs.catalogue._devices import device
from batchpilot.configs.catalogue._finding import SHIPPED, read_entries
from batchpilot.configs.errors import ConfigError


@dataclass(frozen=True, slots=True, kw_only=True)
class Price:
    """Price of one device on demand.

    Attributes:
        name: the device.
        usd_per_hour: US dollars an hour, >= 0.
        read_on: the day the price was read.
        source: who asks it.
        aliases: none; a device's aliases name it.

    Raises:
        ValueError: a figure is outside its bound; the message names it.
    """

    name: str
    usd_per_hour: float
    read_on: date | None = None
    source: str = "your own"
    aliases: tuple[str, ...] = ()

    def __post_init__(self) -> None:
        if isinstance(self.usd_per_hour, bool) or not isinstance(self.usd_per_hour, int | float):
            raise ValueError(f"usd_per_hour of {self.name} is {self.usd_per_hour!r}; it must be a number")
        if not (self.usd_per_hour >= 0 and math.isfinite(self.usd_per_hour)):
            raise ValueError(f"usd_per_hour of {self.name} is {self.usd_per_hour}; it must be >= 0 and finite")


def prices(own: str | Path | None = None) -> dict[str, Price]:
    """Prices by the device's catalogue name; a device without one is not there.

    Args:
        own: the user's file, of the form of `prices.yaml`; its devices replace the shipped ones.

    Raises:
        ConfigError: the file is wrong, or names a device that is not catalogued; the message says where.
        OSError: it cannot be read.
    """
    return _shipped() | ({} if own is None else _by_device(Path(own)))


@cache
def _shipped() -> dict[str, Price]:
    return _by_device(SHIPPED / "prices.yaml")


def _by_device(path: Path) -> dict[str, Price]:
    found: dict[str, Price] = {}
    for name, price in read_entries(path, "price of device", Price).items():
        try:
            found[device(name).name] = price
        except ValueError as error:
            raise ConfigError(f"{error} (file {path})") from None
    return found
