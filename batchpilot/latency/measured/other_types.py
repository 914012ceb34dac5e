"""Types of weights that no table holds: a measured 16-bit deployment that reads fewer bytes."""

from __future__ import annotations

from dataclasses import replace

from batchpilot.configs.catalogue import DeviceSpec, ModelSpec
from batchpilot.configs.footprint import weight_bytes
from batchpilot.latency.measured.finding import find_measured
from batchpilot.latency.measured.table import MeasuredEntry
from batchpilot.latency.model.saturation import SaturationParameters

WEIGHT_ONLY = ("int8", "int4")
"""Types that weights are kept in and computed at 16 bits, as AWQ and GPTQ do."""

BANDWIDTH = 0.88
"""Share of the peak at which measured systems read weights."""

_LEAST = 0.25
"""Of a small step's time, what stays in any case: it does more than read weights."""


def with_fewer_bytes(
    device: DeviceSpec,
    model: ModelSpec,
    tensor_parallel: int,
    dtype: str,
    engine: str | None = None,
    kv_dtype: str | None = None,
) -> tuple[SaturationParameters, MeasuredEntry] | None:
    """Step latency with weights of another type: small steps are shorter by the reading saved, large ones stay.

    Held against what was measured in FP8, it is 0.86 to 1.04 of it at the median of each device for 16 requests.

    Args:
        device: the device.
        model: a dense model.
        tensor_parallel: devices that share it.
        dtype: one of `WEIGHT_ONLY`; nothing is said of others.
        engine: whose operators; None for any.
        kv_dtype: type of the KV cache, None for any.

    Returns:
        The parameters and the measured entry they come from; None where there is none.
    """
    if dtype not in WEIGHT_ONLY or model.experts:
        return None
    entry = find_measured(device, model, tensor_parallel, "fp16", engine, kv_dtype)
    return None if entry is None else (lighter(entry, device, model, dtype), entry)


def lighter(entry: MeasuredEntry, device: DeviceSpec, model: ModelSpec, dtype: str) -> SaturationParameters:
    """A 16-bit entry with the bytes of another type.

    Args:
        entry: measured at 16 bits.
        device: its device.
        model: its model.
        dtype: the other type.
    """
    served = entry.served
    saved_bytes = (weight_bytes(model, "fp16") - weight_bytes(model, dtype)) / entry.tensor_parallel
    saved_ms = saved_bytes / (device.bandwidth_gb_per_s * 1e6 * BANDWIDTH)
    small_ms = 1 / (served.p_max * served.k_s)
    return replace(served, k_s=served.k_s * small_ms / max(small_ms - saved_ms, _LEAST * small_ms))
