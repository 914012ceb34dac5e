"""A first batch size before anything was served: what memory holds, and from where on more requests are no gain.

Source: dynamic batch tuner document, estimateBatchSizeFromMemory and estimateBatchSizeFromCompute (SPEC 1: the smaller
of both, within the range). What they take for constants (200 MB a request, a size for each TFLOPS) is computed from
model and device here.
"""

from __future__ import annotations

from dataclasses import dataclass

from batchpilot.configs.catalogue import DeviceSpec, ModelSpec
from batchpilot.configs.footprint import weight_bytes
from batchpilot.engines.memory import MemoryModel, memory_model


@dataclass(frozen=True, slots=True)
class FirstSize:
    """A first batch size and where it comes from.

    Attributes:
        from_memory: requests whose KV caches fit.
        from_compute: requests at which a decode step computes as long as it reads the weights; beyond, more requests
            only make it longer.
        batch_size: the smaller of both, within the range.
    """

    from_memory: int
    from_compute: int
    batch_size: int


def size_from_memory(memory: MemoryModel, tokens_per_request: int) -> int:
    """Requests whose KV caches fit.

    Args:
        memory: where the device's memory goes.
        tokens_per_request: prompt and output, >= 1.

    Raises:
        ValueError: `tokens_per_request` is below 1.
    """
    if tokens_per_request < 1:
        raise ValueError(f"tokens_per_request is {tokens_per_request}; it must be >= 1")
    return memory.kv_capacity_tokens // tokens_per_request


def size_from_compute(device: DeviceSpec, model: ModelSpec, dtype: str | None = None) -> int:
    """Requests at which a decode step is bound by arithmetic as much as by reading the weights.

    Both are shared alike under tensor parallelism. Reading the KV cache, which only raises the size, is left out.

    Args:
        device: its published peaks.
        model: two operations an active parameter and token.
        dtype: type of the weights, None for the published one.
    """
    read_s = weight_bytes(model, dtype) / (device.bandwidth_gb_per_s * 1e9)
    return max(1, int(read_s * device.peak_tflops * 1e12 / (2.0 * model.active)))


def first_size(
    device: DeviceSpec,
    model: ModelSpec,
    tokens_per_request: int,
    *,
    tensor_parallel: int = 1,
    dtype: str | None = None,
    lowest: int = 1,
    highest: int = 256,
) -> FirstSize:
    """A first batch size on a device.

    Args:
        device: one of `tensor_parallel` alike.
        model: what it serves.
        tokens_per_request: prompt and output of a request, >= 1.
        tensor_parallel: devices that share the model.
        dtype: type of the weights, None for the published one.
        lowest: of the range, >= 1.
        highest: of the range, >= `lowest`.

    Raises:
        ValueError: an argument is outside its bound, or the model does not fit.
    """
    if not 1 <= lowest <= highest:
        raise ValueError(f"the range is {lowest} to {highest}; it must begin at 1 or above and not end before that")
    memory = memory_model(device, model, tensor_parallel, dtype)
    by_memory, by_compute = size_from_memory(memory, tokens_per_request), size_from_compute(device, model, dtype)
    return FirstSize(by_memory, by_compute, max(lowest, min(by_memory, by_compute, highest)))
