"""What is measured for a device and a model: which layouts, and an entry for one of them."""

from __future__ import annotations

import tempfile
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

from batchpilot.configs.catalogue import DeviceSpec, ModelSpec, model_facts
from batchpilot.configs.footprint import kv_bytes_per_token, kv_type, weight_bytes, weight_type
from batchpilot.configs.models.fields import read_json
from batchpilot.core.extras import needing
from batchpilot.latency.measured.building import build_fit
from batchpilot.latency.measured.grid import GRID_VERSION
from batchpilot.latency.measured.operators import (
    PACKAGE,
    SYSTEMS,
    Deployment,
    MeasuredOperators,
    package_version,
    write_facts,
)
from batchpilot.latency.measured.table import MeasuredEntry

GROUPS = (1, 2, 4, 8)
"""Devices that share a model: one server holds eight."""

_LAYOUTS = 3
_SHARE_OF_MEMORY = 0.85
_BLACKWELL = ("B200", "B300", "GB200", "GB300", "RTX-PRO-6000")
_WITHOUT_FP8 = ("A100-80GB", "Arc-Pro-B60")


@dataclass(frozen=True, slots=True, kw_only=True)
class Layout:
    """How a model lies on devices.

    Attributes:
        engine: which software.
        tensor_parallel: devices that share each layer.
        expert_parallel: groups that these form for the experts.
        pipeline_parallel: stages.
        dtype: type of the weights.
        kv_dtype: type of the KV cache.
    """

    engine: str = "vllm"
    tensor_parallel: int = 1
    expert_parallel: int = 1
    pipeline_parallel: int = 1
    dtype: str = "fp16"
    kv_dtype: str = "fp16"


def shipped_layouts(device: DeviceSpec, model: ModelSpec, engine: str = "vllm") -> Iterator[Layout]:
    """The layouts of a model on a device that the catalogue ships: the three smallest groups that hold it, by type.

    Args:
        device: the device.
        model: the model.
        engine: which software.
    """
    for dtype in shipped_types(device, model):
        fitting = [count for count in GROUPS if _fits(device, model, count, dtype)]
        for count in fitting[:_LAYOUTS]:
            yield Layout(engine=engine, tensor_parallel=count, dtype=dtype)


def shipped_types(device: DeviceSpec, model: ModelSpec) -> list[str]:
    """The types of weights that a device's users choose from: as published, and what its arithmetic was made for.

    Args:
        device: the device.
        model: the model.
    """
    types = [model.dtype]
    if model.dtype == "fp16":
        if device.name not in _WITHOUT_FP8:
            types.append("fp8")
        if device.name in _BLACKWELL:
            types.append("nvfp4")
        elif not model.experts:
            types.append("int4")
    return types


def build_entry(device: DeviceSpec, model: ModelSpec, layout: Layout, path: str | None = None) -> MeasuredEntry:
    """Measure one layout, as far as measured operators tell it.

    Args:
        device: one of `SYSTEMS`.
        model: the model.
        layout: how it lies on the devices.
        path: where its `config.json` lies, for a model that is not catalogued.

    Raises:
        MissingExtraError: the extra `devices` is not installed.
        ValueError: there are no measurements for it, or it does not fit.
    """
    if device.name not in SYSTEMS:
        raise ValueError(f"no operators were measured on {device.name} (measured: {', '.join(SYSTEMS)})")
    dtype = weight_type(layout.dtype, model)
    cache = kv_type(layout.kv_dtype, model)
    devices = layout.tensor_parallel * layout.pipeline_parallel
    left = device.memory_gb * 2**30 * 0.9 - 1.05 * weight_bytes(model, dtype) / devices
    if left <= 0:
        raise ValueError(f"{model.name} in {dtype} does not fit on {devices} x {device.name}")
    tokens = left * layout.pipeline_parallel / kv_bytes_per_token(model, layout.tensor_parallel, cache)
    with tempfile.TemporaryDirectory() as folder:
        source = MeasuredOperators(
            Deployment(
                device=device.name,
                model=_known_as(model, path, folder),
                engine=layout.engine,
                tensor_parallel=layout.tensor_parallel,
                expert_parallel=layout.expert_parallel,
                pipeline_parallel=layout.pipeline_parallel,
                dtype=None if dtype == model.dtype else dtype,
                kv_dtype=cache,
                experts=bool(model.experts),
                published_fp8=model.dtype == dtype == "fp8",
            )
        )
    fitted = build_fit(source, tokens, bool(model.experts))
    return MeasuredEntry(
        device=device.name,
        model=model.name,
        engine=layout.engine,
        tensor_parallel=layout.tensor_parallel,
        expert_parallel=layout.expert_parallel,
        pipeline_parallel=layout.pipeline_parallel,
        dtype=dtype,
        kv_dtype=cache,
        parameters=fitted.parameters,
        errors=fitted.errors,
        points=fitted.points,
        source=f"{PACKAGE} {package_version()} grid {GRID_VERSION}",
    )


def _fits(device: DeviceSpec, model: ModelSpec, count: int, dtype: str) -> bool:
    shared = count == 1 or (device.link_gb_per_s is not None and model.heads % count == 0)
    return shared and weight_bytes(model, dtype) / count <= _SHARE_OF_MEMORY * device.memory_gb * 2**30


def _known_as(model: ModelSpec, path: str | None, folder: str) -> str:
    """What the source knows a model by: its folder, else its repository's name where that is known, else its facts."""
    if path is not None:
        place = Path(path)
        return write_facts(read_json(place / "config.json" if place.is_dir() else place), folder)
    repository = next((alias for alias in model.aliases if "/" in alias), None)
    if repository is not None and _is_known(repository):
        return repository
    facts = model_facts(model.name)
    if facts is None:
        raise ValueError(f"{model.name} is not known by a config.json, which measured operators are found by")
    return write_facts(facts, folder)


def _is_known(repository: str) -> bool:
    with needing("a catalogue of measured devices", "devices"):
        import aiconfigurator_core

    folder = Path(aiconfigurator_core.__file__).parent / "model_configs"
    return (folder / f"{repository.replace('/', '--')}_config.json").is_file()
