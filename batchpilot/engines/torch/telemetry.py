"""What the device says of itself, asked after every n-th step: utilisation, memory, power. MB are 2**20 bytes."""

from __future__ import annotations

import importlib
import time
from collections import deque
from collections.abc import Callable, Iterable
from dataclasses import dataclass, replace
from typing import Any, Protocol

import psutil
import torch

from batchpilot.core.metrics import WindowMetrics
from batchpilot.engines.memory import MB

KEPT = 4096
"""Samples remembered, the newest; a server may run for weeks."""


@dataclass(frozen=True, slots=True)
class Reading:
    """One answer of a device; None where it does not know.

    Attributes:
        utilisation: share of time that the device was busy, 0-1; of all cores for a processor.
        memory_used_mb: memory in use on the device; of this process for a processor.
        power_w: power drawn.
        allocated_mb: what torch's tensors take.
        peak_allocated_mb: the most they took.
        reserved_mb: what torch's allocator holds, tensors and what it keeps for the next ones.
    """

    utilisation: float | None = None
    memory_used_mb: float | None = None
    power_w: float | None = None
    allocated_mb: float | None = None
    peak_allocated_mb: float | None = None
    reserved_mb: float | None = None


@dataclass(frozen=True, slots=True)
class TelemetrySample:
    """A reading and when it was taken.

    Attributes:
        step: steps that were run before.
        now_ms: engine time.
        reading: what the device said.
    """

    step: int
    now_ms: float
    reading: Reading


class Source(Protocol):
    """Where readings come from."""

    def read(self) -> Reading:
        """Ask the device."""


class ProcessorSource:
    """This process on the processor."""

    def __init__(self) -> None:
        self._process = psutil.Process()
        self._cores = psutil.cpu_count() or 1
        self._process.cpu_percent()

    def read(self) -> Reading:
        """Utilisation since the last reading, and resident memory."""
        busy = self._process.cpu_percent() / 100.0 / self._cores
        return Reading(utilisation=min(busy, 1.0), memory_used_mb=self._process.memory_info().rss / MB)


class NvidiaSource:
    """An NVIDIA device, by its management library (NVML) and torch's own counters.

    Args:
        device: a CUDA device.
        nvml: the module `pynvml` or its like; None imports it.
    """

    def __init__(self, device: torch.device, nvml: Any = None) -> None:
        self._device = device
        self._nvml = importlib.import_module("pynvml") if nvml is None else nvml
        self._nvml.nvmlInit()
        # NVML counts all devices, torch only the visible ones; the identifier is the same.
        identifier = f"GPU-{torch.cuda.get_device_properties(device).uuid}"
        self._handle = self._nvml.nvmlDeviceGetHandleByUUID(identifier.encode())

    def read(self) -> Reading:
        """Ask NVML and torch; a question that the device does not answer stays None."""
        rates = self._ask("nvmlDeviceGetUtilizationRates")
        memory = self._ask("nvmlDeviceGetMemoryInfo")
        milliwatts = self._ask("nvmlDeviceGetPowerUsage")
        return Reading(
            utilisation=None if rates is None else rates.gpu / 100.0,
            memory_used_mb=None if memory is None else memory.used / MB,
            power_w=None if milliwatts is None else milliwatts / 1000.0,
            allocated_mb=torch.cuda.memory_allocated(self._device) / MB,
            peak_allocated_mb=torch.cuda.max_memory_allocated(self._device) / MB,
            reserved_mb=torch.cuda.memory_reserved(self._device) / MB,
        )

    def _ask(self, question: str) -> Any:
        try:
            return getattr(self._nvml, question)(self._handle)
        except self._nvml.NVMLError:
            return None


def source_of(device: torch.device) -> Source:
    """Where the readings of a device come from.

    Args:
        device: the engine's.
    """
    return NvidiaSource(device) if device.type == "cuda" else ProcessorSource()


class Telemetry:
    """Readings after every n-th step, outside the time that is measured for it.

    Args:
        source: where readings come from.
        every: steps between readings, >= 1.
        clock: seconds.

    Attributes:
        samples: what was read, the newest `KEPT`.
        cost_s: wall time that reading took.
    """

    def __init__(self, source: Source, every: int = 100, clock: Callable[[], float] = time.perf_counter) -> None:
        if every < 1:
            raise ValueError(f"every is {every}; it must be >= 1 step")
        self.samples: deque[TelemetrySample] = deque(maxlen=KEPT)
        self.cost_s = 0.0
        self._source = source
        self._every = every
        self._clock = clock
        self._steps = 0

    def after_step(self, now_ms: float) -> None:
        """Count a step, and read after every n-th.

        Args:
            now_ms: engine time.
        """
        self._steps += 1
        if self._steps % self._every:
            return
        started = self._clock()
        self.samples.append(TelemetrySample(self._steps, now_ms, self._source.read()))
        self.cost_s += self._clock() - started

    @property
    def latest(self) -> Reading | None:
        """The newest reading, None before any."""
        return self.samples[-1].reading if self.samples else None

    def merged(self, window: WindowMetrics) -> WindowMetrics:
        """A window with what the device said during it in place of what the scheduler reckons.

        The reckoned utilisation is the share of time within steps, the reckoned memory that of weights, KV blocks and
        activations. A device counts all that the allocator keeps, so its readings know of peaks between them.

        Args:
            window: measured just now.

        Returns:
            The window with mean utilisation, mean memory and most memory as read; a field that no reading has is kept.
        """
        readings = []
        for sample in reversed(self.samples):
            if sample.now_ms <= window.start_ms:
                break
            readings.append(sample.reading)
        utilisation = _known(reading.utilisation for reading in readings)
        memory = _known(reading.memory_used_mb for reading in readings)
        if utilisation:
            window = replace(window, utilisation=sum(utilisation) / len(utilisation))
        if memory:
            window = replace(window, memory_used_mb=sum(memory) / len(memory), memory_peak_mb=max(memory))
        return window


def _known(values: Iterable[float | None]) -> list[float]:
    return [value for value in values if value is not None]
