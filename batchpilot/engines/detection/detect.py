"""Which device this machine has: NVIDIA, AMD, Apple, Intel, else its processor."""

from __future__ import annotations

from collections.abc import Callable, Sequence

from batchpilot.engines.detection import (
    DetectedDevice,
    probe_amd,
    probe_apple,
    probe_cpu,
    probe_intel,
    probe_nvidia,
    with_catalogue,
)

__all__ = ["PROBES", "DetectedDevice", "detect_device"]

Probe = Callable[[], DetectedDevice | None]

PROBES: tuple[Probe, ...] = (probe_nvidia, probe_amd, probe_apple, probe_intel)
"""Asked in this order; the processor answers when none of them does."""


def detect_device(probes: Sequence[Probe] = PROBES) -> DetectedDevice:
    """The device of this machine, its first where it has several.

    What the driver does not tell of bandwidth, TFLOPS and compute units comes from the catalogue where its name is
    found there, and else stays None. Takes up to seconds where vendor commands are slow: ask once, at start.

    Args:
        probes: asked in order.
    """
    found = next((device for probe in probes if (device := probe()) is not None), None)
    return with_catalogue(found if found is not None else probe_cpu())
