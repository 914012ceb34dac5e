"""NVIDIA devices, through the driver's management library (NVML)."""

from __future__ import annotations

import importlib
from collections.abc import Callable
from contextlib import suppress
from typing import Any

from batchpilot.engines.detection.asking import MB
from batchpilot.engines.detection.found import UNKNOWN, DetectedDevice

_CORES_PER_UNIT = {(7, 0): 64, (7, 2): 64, (7, 5): 64, (8, 0): 64}
_CORES_PER_NEWER_UNIT = 128
"""CUDA cores of a streaming multiprocessor by compute capability (CUDA programming guide)."""


def probe_nvidia(nvml: Any = None) -> DetectedDevice | None:
    """The first NVIDIA device, None without one or without its driver.

    Args:
        nvml: the module `pynvml` or its like; None imports it.
    """
    if nvml is None:
        try:
            nvml = importlib.import_module("pynvml")
        except ImportError:
            return None
    try:
        nvml.nvmlInit()
    except nvml.NVMLError:
        return None
    try:
        return _first(nvml)
    finally:
        with suppress(nvml.NVMLError):
            nvml.nvmlShutdown()


def _first(nvml: Any) -> DetectedDevice | None:
    """Ask the first device; a question that this driver or this library does not know leaves its field None."""

    def ask(question: str, *arguments: Any) -> Any:
        try:
            return getattr(nvml, question)(*arguments)
        except (nvml.NVMLError, AttributeError):
            return None

    handle = ask("nvmlDeviceGetHandleByIndex", 0)
    if handle is None:
        return None
    name = ask("nvmlDeviceGetName", handle)
    memory = ask("nvmlDeviceGetMemoryInfo", handle)
    return DetectedDevice(
        kind="nvidia",
        # Versions of the library before 11.5 answer in bytes.
        model=name.decode(errors="replace") if isinstance(name, bytes) else name or UNKNOWN,
        total_memory_mb=None if memory is None else memory.total / MB,
        free_memory_mb=None if memory is None else memory.free / MB,
        compute_units=_compute_units(ask, handle),
        bandwidth_gb_per_s=_bandwidth(ask, handle, getattr(nvml, "NVML_CLOCK_MEM", 2)),
        count=ask("nvmlDeviceGetCount") or 1,
    )


def _bandwidth(ask: Callable[..., Any], handle: Any, memory_clock: int) -> float | None:
    """Peak bandwidth in GB/s: two transfers a clock over the whole bus."""
    mhz = ask("nvmlDeviceGetMaxClockInfo", handle, memory_clock)
    bits = ask("nvmlDeviceGetMemoryBusWidth", handle)
    return 2 * mhz * 1e6 * bits / 8 / 1e9 if mhz and bits else None


def _compute_units(ask: Callable[..., Any], handle: Any) -> int | None:
    """Streaming multiprocessors, from the number of CUDA cores."""
    cores = ask("nvmlDeviceGetNumGpuCores", handle)
    capability = ask("nvmlDeviceGetCudaComputeCapability", handle)
    if not cores or capability is None:
        return None
    return int(cores) // _CORES_PER_UNIT.get(tuple(capability), _CORES_PER_NEWER_UNIT)
