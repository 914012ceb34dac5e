"""What a probe finds, and what the catalogue adds to it."""

from __future__ import annotations

import re
from dataclasses import dataclass, replace

from batchpilot.configs.catalogue import DeviceSpec, devices

UNKNOWN = "unknown"


@dataclass(frozen=True, slots=True, kw_only=True)
class DetectedDevice:
    """The device of this machine; a field nobody could tell is None, and the model "unknown".

    Attributes:
        kind: nvidia, amd, apple, intel or cpu.
        model: the name its driver gives.
        total_memory_mb: device memory, MB of 2**20 bytes.
        free_memory_mb: what of it is free now.
        compute_units: streaming multiprocessors, compute units, GPU cores, Xe cores or CPU cores.
        bandwidth_gb_per_s: peak memory bandwidth, GB/s of 10**9 bytes.
        peak_tflops: peak dense 16-bit throughput.
        count: devices that the driver tells of; the other figures are those of the first.
    """

    kind: str
    model: str = UNKNOWN
    total_memory_mb: float | None = None
    free_memory_mb: float | None = None
    compute_units: int | None = None
    bandwidth_gb_per_s: float | None = None
    peak_tflops: float | None = None
    count: int = 1


def catalogued(kind: str, model: str) -> DeviceSpec | None:
    """The catalogued device that a driver's name means, None where none surely does.

    Every word of the catalogue's name must stand in the driver's: "NVIDIA H100 80GB HBM3" is the H100-80GB, while
    "NVIDIA A10G" is no A10. The longest such name wins.

    Args:
        kind: vendor.
        model: the driver's name.
    """
    if kind == "cpu":
        # A processor's name says nothing of its memory channels, which decide.
        return None
    given = _words(model)
    matches = [entry for entry in devices() if entry.vendor == kind and _words(entry.name) <= given]
    return max(matches, key=lambda entry: len(_words(entry.name)), default=None)


def with_catalogue(found: DetectedDevice) -> DetectedDevice:
    """The device with what its driver does not tell taken from the catalogue.

    Args:
        found: a probe's answer.
    """
    entry = catalogued(found.kind, found.model)
    if entry is None:
        return found
    return replace(
        found,
        compute_units=found.compute_units or entry.compute_units,
        bandwidth_gb_per_s=found.bandwidth_gb_per_s or entry.bandwidth_gb_per_s,
        peak_tflops=found.peak_tflops or entry.peak_tflops,
    )


def _words(name: str) -> set[str]:
    return set(re.findall(r"[a-z0-9]+", name.lower()))
