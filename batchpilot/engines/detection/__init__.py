"""Probes for the device of this machine, one vendor a module; each says None or "unknown" rather than failing."""

from batchpilot.engines.detection.amd import probe_amd
from batchpilot.engines.detection.apple import probe_apple
from batchpilot.engines.detection.cpu import probe_cpu
from batchpilot.engines.detection.found import DetectedDevice, with_catalogue
from batchpilot.engines.detection.intel import probe_intel
from batchpilot.engines.detection.nvidia import probe_nvidia

__all__ = [
    "DetectedDevice",
    "probe_amd",
    "probe_apple",
    "probe_cpu",
    "probe_intel",
    "probe_nvidia",
    "with_catalogue",
]
