"""Devices: memory, bandwidth and compute as their makers publish them."""

from __future__ import annotations

import math
from dataclasses import dataclass

VENDORS = ("nvidia", "amd", "apple", "intel", "cpu")


@dataclass(frozen=True, slots=True, kw_only=True)
class DeviceSpec:
    """One device as software sees it: a module of two dies that shows as two devices is two of these.

    Attributes:
        name: what tables call it.
        vendor: one of nvidia, amd, apple, intel, cpu.
        memory_gb: device memory in GB of 2**30 bytes.
        bandwidth_gb_per_s: peak memory bandwidth, in GB/s of 10**9 bytes.
        peak_tflops: peak dense 16-bit matrix throughput in 10**12 operations/s; 32-bit where 16 bits are no faster.
        compute_units: streaming multiprocessors, compute units, GPU cores, Xe cores or CPU cores.
        link_gb_per_s: bandwidth to a neighbour in one direction, GB/s; None where there is none to share a model with.
        optimal_batch: smallest and largest batch size at which the optimum is expected; None where nobody has said.
        aliases: other names, drivers' names among them.
        source: where the figures come from.

    Raises:
        ValueError: an unknown vendor, or a figure that is not above 0; the message names it.
    """

    name: str
    vendor: str
    memory_gb: float
    bandwidth_gb_per_s: float
    peak_tflops: float
    compute_units: int
    link_gb_per_s: float | None = None
    optimal_batch: tuple[int, int] | None = None
    aliases: tuple[str, ...] = ()
    source: str = ""

    def __post_init__(self) -> None:
        if self.vendor not in VENDORS:
            raise ValueError(f"vendor of device {self.name} is {self.vendor!r}; it must be one of {', '.join(VENDORS)}")
        for field in ("memory_gb", "bandwidth_gb_per_s", "peak_tflops", "compute_units", "link_gb_per_s"):
            value = getattr(self, field)
            if value is not None and not (value > 0 and math.isfinite(value)):
                raise ValueError(f"{field} of device {self.name} is {value}; it must be above 0")
