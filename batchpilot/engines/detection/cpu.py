"""The processor, where there is nothing better; always found."""

from __future__ import annotations

import platform
import re
from pathlib import Path

import psutil

from batchpilot.engines.detection.asking import megabytes, read_text
from batchpilot.engines.detection.found import UNKNOWN, DetectedDevice


def available_memory_bytes() -> int:
    """Memory of this machine that is free or can be freed."""
    return int(psutil.virtual_memory().available)


def probe_cpu(cpuinfo: Path = Path("/proc/cpuinfo")) -> DetectedDevice:
    """The processor of this machine.

    Args:
        cpuinfo: the kernel's description of it; absent outside Linux.
    """
    named = re.search(r"^model name\s*:\s*(\S.*)$", read_text(cpuinfo) or "", re.MULTILINE)
    return DetectedDevice(
        kind="cpu",
        model=named.group(1).strip() if named else platform.processor() or UNKNOWN,
        total_memory_mb=megabytes(psutil.virtual_memory().total),
        free_memory_mb=megabytes(available_memory_bytes()),
        compute_units=psutil.cpu_count(logical=False) or psutil.cpu_count(),
    )
