"""What a device draws: published peaks, and the user's own figures before them. Watts."""

from __future__ import annotations

import math
from dataclasses import dataclass
from functools import cache
from pathlib import Path

from batchpilot.configs.catalogue._by_device import figures_by_device
from batchpilot.configs.catalogue._finding import SHIPPED

IDLE_SHARE = 0.15
"""Of the peak, where nobody says what a device draws idle, its model loaded: a guess."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Power:
    """Power of one device.

    Attributes:
        name: the device.
        peak_w: most that it draws, > 0.
        idle_w: with a model loaded and nothing to do, from 0 to the peak; None for `IDLE_SHARE` of the peak.
        source: who says so.
        aliases: none; a device's aliases name it.

    Raises:
        ValueError: a figure is outside its bound; the message names it.
    """

    name: str
    peak_w: float
    idle_w: float | None = None
    source: str = "your own"
    aliases: tuple[str, ...] = ()

    def __post_init__(self) -> None:
        if not _is_number(self.peak_w) or not self.peak_w > 0:
            raise ValueError(f"peak_w of {self.name} is {self.peak_w!r}; it must be a number above 0")
        if self.idle_w is not None and not (_is_number(self.idle_w) and 0 <= self.idle_w <= self.peak_w):
            raise ValueError(f"idle_w of {self.name} is {self.idle_w!r}; it must be from 0 to its peak, {self.peak_w}")

    @property
    def idle(self) -> float:
        """Watts with nothing to do."""
        return IDLE_SHARE * self.peak_w if self.idle_w is None else self.idle_w

    def at(self, use: float) -> float:
        """Watts at a share of the time at full tilt: a straight line from idle to peak.

        Args:
            use: 0-1.
        """
        return self.idle + (self.peak_w - self.idle) * min(max(use, 0.0), 1.0)


def powers(own: str | Path | None = None) -> dict[str, Power]:
    """Power by the device's catalogue name; a device without figures is not there.

    Args:
        own: the user's file, of the form of `power.yaml`; its devices replace the shipped ones.

    Raises:
        ConfigError: the file is wrong, or names a device that is not catalogued; the message says where.
        OSError: it cannot be read.
    """
    return _shipped() | ({} if own is None else figures_by_device(Path(own), "power", Power))


@cache
def _shipped() -> dict[str, Power]:
    return figures_by_device(SHIPPED / "power.yaml", "power", Power)


def _is_number(value: object) -> bool:
    return isinstance(value, int | float) and not isinstance(value, bool) and math.isfinite(value)
