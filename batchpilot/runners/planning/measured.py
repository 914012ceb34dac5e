"""The latency of a deployment that is planned for: shipped, built on the spot, or refused with what to run."""

from __future__ import annotations

from pathlib import Path

from batchpilot.configs.catalogue import DeviceSpec, ModelSpec
from batchpilot.configs.footprint import kv_type
from batchpilot.core.extras import MissingExtraError
from batchpilot.latency.measured.finding import can_be_measured
from batchpilot.latency.measured.shipping import Layout, build_entry
from batchpilot.latency.model.registry import find_latency
from batchpilot.latency.model.roofline import LatencyEstimate


def measured_or_refused(
    device: DeviceSpec,
    model: ModelSpec,
    named: str,
    tensor_parallel: int,
    dtype: str,
    engine: str | None = None,
    kv_dtype: str | None = None,
) -> LatencyEstimate:
    """The latency of a deployment.

    Where operators of the device were measured, nothing less is taken: what is not shipped is built now. The roofline
    remains for devices and models that nobody measured.

    Args:
        device: the device.
        model: the model.
        named: what the user called the model, perhaps a path.
        tensor_parallel: devices that share it.
        dtype: type of the weights.
        engine: software whose operators count; None for the first that was measured.
        kv_dtype: type of the KV cache; None for what was measured.

    Raises:
        ValueError: it would have to be built, and the extra is not installed; the message says what to run.
    """
    found = find_latency(device, model, tensor_parallel, dtype, engine, kv_dtype)
    path = named if Path(named).expanduser().exists() else None
    if "measured" in found.provenance or not can_be_measured(device, model, path):
        return found
    layout = Layout(
        engine=engine or "vllm", tensor_parallel=tensor_parallel, dtype=dtype, kv_dtype=kv_type(kv_dtype, model)
    )
    try:
        entry = build_entry(device, model, layout, path)
    except MissingExtraError as error:
        typed = f"--device {device.name} --model {named} --tensor-parallel {tensor_parallel} --dtype {dtype}"
        raise ValueError(
            f"{model.name} ({dtype}) on {tensor_parallel} x {device.name} is not among the shipped measurements; "
            f"{error}; then run this again, or see its fit by `batchpilot catalogue build {typed}`"
        ) from None
    except ValueError:
        return found
    return LatencyEstimate(entry.served, entry.provenance)
