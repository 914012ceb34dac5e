"""Step latency by device and model: measured where somebody has measured, started from the nearest model else.

A registry is a readable YAML file in which every set of parameters says where it comes from.
"""

from __future__ import annotations

import math
from collections.abc import Iterable, Mapping
from functools import cache
from pathlib import Path

import yaml

from batchpilot.configs import catalogue
from batchpilot.configs.catalogue import DeviceSpec, ModelSpec
from batchpilot.configs.footprint import kv_bytes_per_token
from batchpilot.configs.reading import YamlFile, read_yaml
from batchpilot.core.files import write_atomic
from batchpilot.core.names import lookup
from batchpilot.latency.measured.finding import find_measured
from batchpilot.latency.measured.other_types import with_fewer_bytes
from batchpilot.latency.model.entry import LatencyEntry, Place, place_text
from batchpilot.latency.model.roofline import LatencyEstimate, roofline
from batchpilot.latency.model.saturation import SaturationParameters

_SHIPPED = Path(catalogue.__file__).parent / "latency.yaml"


class LatencyRegistry:
    """Latency entries by device, model, tensor parallelism and type.

    Args:
        entries: to begin with.

    Raises:
        ValueError: two entries for one place.
    """

    def __init__(self, entries: Iterable[LatencyEntry] = ()) -> None:
        self._entries: dict[Place, LatencyEntry] = {}
        for entry in entries:
            self.register(entry)

    @property
    def entries(self) -> tuple[LatencyEntry, ...]:
        """Every entry, in the order of registration."""
        return tuple(self._entries.values())

    def register(self, entry: LatencyEntry, *, replace: bool = False) -> None:
        """Add an entry.

        Args:
            entry: what to add.
            replace: take the place of the entry that stands there, if any.

        Raises:
            ValueError: the place is taken and `replace` was not given.
        """
        standing = self._entries.get(entry.place)
        if standing is not None and not replace:
            raise ValueError(f"{place_text(entry.place)} is registered already ({standing.provenance}); replace=True")
        self._entries[entry.place] = entry

    def find(
        self, device: DeviceSpec, model: ModelSpec, tensor_parallel: int = 1, dtype: str = "fp16"
    ) -> LatencyEntry | None:
        """The entry of a place, None where nobody has registered one.

        Args:
            device: the device.
            model: the model, catalogued or not.
            tensor_parallel: devices that share the model.
            dtype: type the weights are stored in.
        """
        return self._entries.get((device.name, model.name, tensor_parallel, dtype))

    def nearest(
        self, device: DeviceSpec, model: ModelSpec, tensor_parallel: int = 1, dtype: str = "fp16"
    ) -> LatencyEntry | None:
        """The entry on the same device, shared and stored alike, whose model is nearest in size.

        Args:
            device: the device.
            model: the model, catalogued or not.
            tensor_parallel: devices that share the model.
            dtype: type the weights are stored in.

        Returns:
            The entry whose parameter count is closest by its factor; None where the device has no such entry.
        """
        alike = [
            entry
            for entry in self._entries.values()
            if (entry.device, entry.tensor_parallel, entry.dtype) == (device.name, tensor_parallel, dtype)
        ]
        if not alike:
            return None
        return min(alike, key=lambda entry: abs(math.log(catalogue.model(entry.model).parameters / model.parameters)))

    def start_for(
        self, device: DeviceSpec, model: ModelSpec, tensor_parallel: int = 1, dtype: str = "fp16"
    ) -> LatencyEstimate:
        """Parameters to start from: the place's own entry, else the nearest model's scaled by size, else the roofline.

        Args:
            device: the device.
            model: the model, catalogued or not.
            tensor_parallel: devices that share the model.
            dtype: type the weights are stored in.

        Returns:
            The parameters, labelled with which of the three they are.

        Source: parameter registry of the throughput saturation document (a new model starts from the nearest by size).
        """
        own = self.find(device, model, tensor_parallel, dtype)
        if own is not None:
            return LatencyEstimate(own.parameters, own.provenance)
        near = self.nearest(device, model, tensor_parallel, dtype)
        if near is None:
            return roofline(device, model, tensor_parallel, dtype)
        known = catalogue.model(near.model)
        ratio = model.parameters / known.parameters
        return LatencyEstimate(
            scaled_to(near.parameters, known, model),
            f"estimated: {model.name} on {tensor_parallel} x {device.name}, scaled by {ratio:.3g} in size from "
            f"{near.provenance}",
        )

    def save(self, path: str | Path) -> Path:
        """Write every entry to a YAML file; readers see it whole or not at all.

        Args:
            path: the file to write.
        """
        data = {"entries": [entry.to_dict() for entry in self._entries.values()]}
        return write_atomic(path, yaml.safe_dump(data, sort_keys=False, width=120))

    @classmethod
    def load(cls, path: str | Path) -> LatencyRegistry:
        """Read what `save` wrote, or somebody by hand.

        Args:
            path: a YAML file with a list under `entries`.

        Raises:
            ConfigError: the file is not YAML; the message says where.
            ValueError: an entry is wrong or stands twice; the message names file, line and value.
            OSError: the file cannot be read.
        """
        file = read_yaml(path)
        for key in file.data:
            lookup({"entries": None}, key, f"key of latency registry {path}")
        listed = file.data.get("entries", [])
        if not isinstance(listed, list):
            raise ValueError(f"entries must be a list of latency entries ({file.where('entries')})")
        registry = cls()
        for index, data in enumerate(listed):
            registry._read(file, index, data)
        return registry

    def _read(self, file: YamlFile, index: int, data: object) -> None:
        if not isinstance(data, Mapping):
            raise ValueError(f"expected a latency entry, found {data!r} ({file.where('entries', index)})")
        try:
            self.register(LatencyEntry.from_dict(data))
        except (ValueError, TypeError) as error:
            raise ValueError(f"{error} ({file.where('entries', index)})") from None


@cache
def shipped_latencies() -> LatencyRegistry:
    """The registry of the catalogue; register in one of your own, as this one is shared."""
    return LatencyRegistry.load(_SHIPPED)


def find_latency(
    device: DeviceSpec,
    model: ModelSpec,
    tensor_parallel: int = 1,
    dtype: str = "fp16",
    engine: str | None = None,
    kv_dtype: str | None = None,
) -> LatencyEstimate:
    """The best known step latency: an entry of whole steps, else a fit to measured operators, else an estimate.

    The estimate is a 16-bit fit with fewer bytes where weights alone are of another type, else the roofline.

    Args:
        device: the device, one of `tensor_parallel` alike.
        model: the model.
        tensor_parallel: devices that share the model, >= 1.
        dtype: type the weights are stored in: fp16, fp8, int8, int4, nvfp4 or mxfp4.
        engine: software whose operators count: vllm, sglang or trtllm; None for the first that was measured.
        kv_dtype: type of the KV cache; None for any.

    Returns:
        The parameters, labelled "measured: ..." or "estimated: ...".

    Raises:
        ValueError: as `roofline`.
    """
    entry = shipped_latencies().find(device, model, tensor_parallel, dtype)
    if entry is not None and engine is None:
        return LatencyEstimate(entry.parameters, entry.provenance)
    fitted = find_measured(device, model, tensor_parallel, dtype, engine, kv_dtype)
    if fitted is not None:
        return LatencyEstimate(fitted.served, fitted.provenance)
    lighter = with_fewer_bytes(device, model, tensor_parallel, dtype, engine, kv_dtype)
    if lighter is not None:
        parameters, known = lighter
        return LatencyEstimate(parameters, f"estimated: the bytes of {dtype} in what was {known.provenance}")
    return roofline(device, model, tensor_parallel, dtype)


def scaled_to(parameters: SaturationParameters, known: ModelSpec, model: ModelSpec) -> SaturationParameters:
    """Latency of a model guessed from that of another on the same device.

    Work per step and token goes with the parameter count, the fixed time with the layers, the context term with the KV
    bytes of a token; host time per request stays. For one device, rooflines of two models are related in just this way.

    Args:
        parameters: of the known model.
        known: the model they belong to.
        model: the model wanted.
    """
    size = model.parameters / known.parameters
    return SaturationParameters(
        p_max=parameters.p_max,
        k_b=parameters.k_b,
        k_s=parameters.k_s,
        w_0=parameters.w_0 * size,
        w_1=parameters.w_1 * size,
        tau_0=parameters.tau_0 * model.layers / known.layers,
        tau_b=parameters.tau_b,
        tau_s=parameters.tau_s * size,
        tau_c=parameters.tau_c * kv_bytes_per_token(model) / kv_bytes_per_token(known),
        tau_e=parameters.tau_e * size,
        s_e=parameters.s_e,
    )
