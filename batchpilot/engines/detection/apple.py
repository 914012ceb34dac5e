"""Apple devices, whose GPU shares the machine's memory, through `sysctl` and `system_profiler`."""

from __future__ import annotations

from collections.abc import Callable

from batchpilot.engines.detection.asking import Run, entries, mapping, megabytes, number, read_json, run_command
from batchpilot.engines.detection.cpu import available_memory_bytes
from batchpilot.engines.detection.found import DetectedDevice


def probe_apple(
    run: Run = run_command, available_bytes: Callable[[], int] = available_memory_bytes
) -> DetectedDevice | None:
    """The GPU of an Apple processor, None on any other machine.

    Args:
        run: runs `sysctl` and `system_profiler`.
        available_bytes: tells the free memory of the machine.
    """
    model = (run(["sysctl", "-n", "machdep.cpu.brand_string"]) or "").strip()
    if not model.startswith("Apple"):
        return None
    displays = mapping(read_json(run(["system_profiler", "SPDisplaysDataType", "-json"]))).get("SPDisplaysDataType")
    cores = [number(mapping(display).get("sppci_cores")) for display in entries(displays)]
    return DetectedDevice(
        kind="apple",
        model=model,
        total_memory_mb=megabytes(run(["sysctl", "-n", "hw.memsize"])),
        free_memory_mb=megabytes(available_bytes()),
        compute_units=next((int(count) for count in cores if count), None),
    )
