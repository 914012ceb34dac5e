"""What an engine must know of its device: free and total memory, the peak of a piece of work, when work is done."""

from __future__ import annotations

from collections.abc import Callable

import psutil
import torch
from torch.profiler import ProfilerActivity, profile

MEMORY_FRACTIONS = {"cpu": 0.25}
OTHER_MEMORY_FRACTION = 0.9
"""Share of the memory that is free at start which an engine may take: an accelerator is its own, a processor is not."""


def default_memory_fraction(device: torch.device) -> float:
    """Share of free memory to take where none is given.

    Args:
        device: the engine's.
    """
    return MEMORY_FRACTIONS.get(device.type, OTHER_MEMORY_FRACTION)


def synchronise(device: torch.device) -> None:
    """Wait until the device has done what it was given.

    Args:
        device: the engine's.
    """
    if device.type == "cuda":
        torch.cuda.synchronize(device)


def free_and_total_bytes(device: torch.device) -> tuple[int, int]:
    """Memory that can still be had, and that the device has.

    Args:
        device: the engine's.
    """
    if device.type == "cuda":
        torch.cuda.empty_cache()
        free, total = torch.cuda.mem_get_info(device)
        return int(free), int(total)
    memory = psutil.virtual_memory()
    return int(memory.available), int(memory.total)


def peak_bytes(work: Callable[[], object], device: torch.device) -> int:
    """Memory that some work holds at its peak beyond what was held before.

    Args:
        work: what is run, once.
        device: where it runs.
    """
    if device.type == "cuda":
        torch.cuda.synchronize(device)
        torch.cuda.reset_peak_memory_stats(device)
        before = torch.cuda.memory_allocated(device)
        work()
        torch.cuda.synchronize(device)
        return int(torch.cuda.max_memory_allocated(device) - before)
    with profile(activities=[ProfilerActivity.CPU], profile_memory=True) as profiled:
        work()
    held = peak = 0
    for event in sorted(profiled.events(), key=lambda event: event.time_range.start):
        held += event.self_cpu_memory_usage
        peak = max(peak, held)
    return int(peak)


def is_out_of_memory(error: Exception) -> bool:
    """Whether an error says that memory is exhausted; the processor's allocator has no class of its own for it.

    Args:
        error: what a step raised.
    """
    if isinstance(error, torch.OutOfMemoryError | MemoryError):
        return True
    return isinstance(error, RuntimeError) and "can't allocate memory" in str(error)


def release_cached(device: torch.device) -> None:
    """Give memory that torch keeps for reuse back to the device.

    Args:
        device: the engine's.
    """
    if device.type == "cuda":
        torch.cuda.empty_cache()
