"""What an hour of a device costs: list prices, each with its source and day, and the user's own before them."""

from __future__ import annotations

import math
from dataclasses import dataclass
from datetime import date
from functools import cache
from pathlib import Path

from batchpilot.configs.catalogue._by_device import figures_by_device
from batchpilot.configs.catalogue._finding import SHIPPED


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
    return _shipped() | ({} if own is None else figures_by_device(Path(own), "price", Price))


@cache
def _shipped() -> dict[str, Price]:
    return figures_by_device(SHIPPED / "prices.yaml", "price", Price)
