"""Intel's discrete devices, through `xpu-smi`, else through sysfs. Graphics inside a processor are left to the CPU."""

from __future__ import annotations

from pathlib import Path

from batchpilot.engines.detection.asking import Run, mapping, megabytes, number, read_json, read_text, run_command
from batchpilot.engines.detection.found import DetectedDevice

_VENDOR = "0x8086"
_DISCRETE = {
    "0x56a0": "Intel Arc A770",
    "0x56a1": "Intel Arc A750",
    "0x56a5": "Intel Arc A380",
    "0x56c0": "Intel Data Center GPU Flex 170",
    "0x56c1": "Intel Data Center GPU Flex 140",
    "0x0bd5": "Intel Data Center GPU Max 1550",
    "0xe20b": "Intel Arc B580",
}
"""Discrete devices by PCI identifier, as in the kernel's i915 and xe drivers."""

_ENGINES_PER_CORE = 16
"""Vector engines of a Xe-HPG core; other generations differ, so only an Arc A's are counted."""


def probe_intel(run: Run = run_command, sysfs: Path = Path("/sys/class/drm")) -> DetectedDevice | None:
    """The first discrete Intel device, None without one.

    Args:
        run: runs `xpu-smi`.
        sysfs: folder of the kernel's graphics cards.
    """
    return _by_command(run) or _by_sysfs(sysfs)


def _by_command(run: Run) -> DetectedDevice | None:
    device = mapping(read_json(run(["xpu-smi", "discovery", "-d", "0", "-j"])))
    if not device.get("device_name"):
        return None
    model = str(device["device_name"])
    engines = number(device.get("number_of_eus"))
    return DetectedDevice(
        kind="intel",
        model=model,
        total_memory_mb=megabytes(device.get("memory_physical_size_byte")),
        free_memory_mb=megabytes(device.get("memory_free_size_byte")),
        compute_units=int(engines) // _ENGINES_PER_CORE if engines and "Arc(TM) A" in model else None,
    )


def _by_sysfs(sysfs: Path) -> DetectedDevice | None:
    for vendor in sorted(sysfs.glob("card*/device/vendor")):
        identifier = read_text(vendor.parent / "device")
        if read_text(vendor) == _VENDOR and identifier in _DISCRETE:
            return DetectedDevice(
                kind="intel",
                model=_DISCRETE[identifier],
                total_memory_mb=megabytes(read_text(vendor.parents[1] / "lmem_total_bytes")),
            )
    return None
