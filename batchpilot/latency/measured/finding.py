"""Which shipped fit belongs to a deployment, and what to do where there is none."""

from __future__ import annotations

from batchpilot.configs.catalogue import DeviceSpec, ModelSpec, model_facts, models
from batchpilot.latency.measured.operators import ENGINES, SYSTEMS
from batchpilot.latency.measured.table import MeasuredEntry, measured_entries


def find_measured(
    device: DeviceSpec,
    model: ModelSpec,
    tensor_parallel: int = 1,
    dtype: str = "fp16",
    engine: str | None = None,
    kv_dtype: str | None = None,
) -> MeasuredEntry | None:
    """The shipped entry of a deployment, None where there is none; models of the same sizes take the same steps.

    Args:
        device: the device.
        model: the model; one that was read from a file is known by its sizes.
        tensor_parallel: devices that share the model.
        dtype: type of the weights.
        engine: which software; None for the first of `ENGINES` that is there.
        kv_dtype: type of the KV cache; None for any, 16 bits first.
    """
    if device.name not in SYSTEMS:
        return None
    names = _same_steps(model)
    order = list(ENGINES)
    alike = [
        entry
        for entry in measured_entries(device.name)
        if entry.model in names
        and (entry.tensor_parallel, entry.dtype) == (tensor_parallel, dtype)
        and entry.pipeline_parallel == 1
        and engine in (None, entry.engine)
        and kv_dtype in (None, entry.kv_dtype)
    ]
    return min(
        alike, key=lambda one: (order.index(one.engine), one.expert_parallel, one.kv_dtype != "fp16"), default=None
    )


def catalogued_name(model: ModelSpec) -> str:
    """The name that the catalogue has for a model of these sizes, its own where it has none.

    Args:
        model: the model, catalogued or read from a file.
    """
    known = models()
    if any(one is model for one in known):
        return model.name
    return next((one.name for one in known if _sizes(one) == _sizes(model)), model.name)


def can_be_measured(device: DeviceSpec, model: ModelSpec, path: str | None = None) -> bool:
    """Whether operators of the device were measured and the model is known by a `config.json`.

    Args:
        device: the device.
        model: the model.
        path: where its `config.json` lies, for a model that is not catalogued.
    """
    return device.name in SYSTEMS and (path is not None or model_facts(model.name) is not None)


def _same_steps(model: ModelSpec) -> set[str]:
    """Names of the models whose steps are this one's: its own, and those of the same sizes."""
    return {model.name} | {one.name for one in models() if _sizes(one) == _sizes(model)}


def _sizes(model: ModelSpec) -> tuple[object, ...]:
    """What steps depend on; of the parameters four digits, as published counts and ours differ by a norm."""
    shape = (model.layers, model.hidden_size, model.intermediate_size, model.heads, model.kv_heads, model.head_dim)
    return (*shape, model.vocab_size, f"{model.parameters:.3e}", model.experts, model.experts_per_token)
