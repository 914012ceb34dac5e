"""One known step latency: parameters of a model on a device, and where they come from."""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import asdict, dataclass, fields
from typing import Any

from batchpilot.configs import catalogue
from batchpilot.configs.footprint import BYTES_PER_WEIGHT
from batchpilot.core.names import lookup
from batchpilot.latency.model.saturation import SaturationParameters

KINDS: dict[str, str] = {"measured": "fitted to step times of the device", "estimated": "from figures alone"}
"""How an entry came about."""

Place = tuple[str, str, int, str]
"""Device, model, tensor parallelism and type of the weights: what an entry is found by."""


@dataclass(frozen=True, slots=True, kw_only=True)
class LatencyEntry:
    """Latency parameters of one model on one device, and where they come from.

    Attributes:
        device: name or alias in the device catalogue; becomes the catalogue's own name.
        model: likewise in the model catalogue.
        tensor_parallel: devices that share the model, >= 1.
        dtype: type the weights are stored in: fp16, int8 or int4.
        parameters: of the saturation model.
        kind: "measured" or "estimated".
        source: from what.
        points: measurements behind it, None for an estimate.
        mean_relative_error: of the fit on them, >= 0; None when nobody knows.
        measured_on: date of the measurement or fit, as text; None when nobody knows.

    Raises:
        ValueError: a name is unknown (the closest known ones are named), or a value is outside its bound.
    """

    device: str
    model: str
    parameters: SaturationParameters
    kind: str
    source: str
    tensor_parallel: int = 1
    dtype: str = "fp16"
    points: int | None = None
    mean_relative_error: float | None = None
    measured_on: str | None = None

    def __post_init__(self) -> None:
        object.__setattr__(self, "device", catalogue.device(self.device).name)
        object.__setattr__(self, "model", catalogue.model(self.model).name)
        lookup(KINDS, self.kind, "kind of latency entry")
        lookup(BYTES_PER_WEIGHT, self.dtype, "dtype")
        if not self.source.strip():
            raise ValueError(f"the latency entry of {self.model} on {self.device} names no source")
        for name, lowest in (("tensor_parallel", 1), ("points", 1), ("mean_relative_error", 0)):
            value = getattr(self, name)
            if value is not None and not (math.isfinite(value) and value >= lowest):
                raise ValueError(f"{name} is {value}; it must be >= {lowest}")

    @property
    def place(self) -> Place:
        """What the entry is found by."""
        return self.device, self.model, self.tensor_parallel, self.dtype

    @property
    def provenance(self) -> str:
        """One line for tables: measured or estimated, from what, when, how well."""
        details = [
            self.source,
            f"{self.points} points" if self.points is not None else "",
            f"mean error {self.mean_relative_error:.1%}" if self.mean_relative_error is not None else "",
            self.measured_on or "",
        ]
        return f"{self.kind}: {place_text(self.place)}; {', '.join(detail for detail in details if detail)}"

    def to_dict(self) -> dict[str, Any]:
        """The entry as plain data without what is unknown, as a registry file holds it."""
        data = asdict(self) | {"parameters": self.parameters.to_dict()}
        return {name: value for name, value in data.items() if value is not None}

    @classmethod
    def from_dict(cls, data: Mapping[str, Any]) -> LatencyEntry:
        """An entry from plain data.

        Args:
            data: values by field name.

        Raises:
            ValueError: an unknown or missing name, or a value that is not allowed; the message names it.
        """
        known = {field.name: field for field in fields(cls)}
        for name in data:
            lookup(known, str(name), "latency entry key")
        missing = [name for name in ("device", "model", "parameters", "kind", "source") if name not in data]
        if missing:
            raise ValueError(f"latency entry lacks {', '.join(missing)}")
        values = dict(data)
        if not isinstance(values["parameters"], Mapping):
            raise ValueError(f"parameters is {values['parameters']!r}; it must be a mapping of names to numbers")
        values["parameters"] = SaturationParameters.from_dict(values["parameters"])
        for name, kind in (("tensor_parallel", int), ("points", int), ("mean_relative_error", float)):
            if values.get(name) is not None:
                values[name] = _number(name, values[name], kind)
        for name in ("device", "model", "kind", "source", "dtype", "measured_on"):
            if values.get(name) is not None:
                values[name] = str(values[name])
        return cls(**values)


def _number(name: str, value: object, kind: type) -> int | float:
    if isinstance(value, bool) or not isinstance(value, int | float) or (kind is int and value != int(value)):
        raise ValueError(f"{name} is {value!r}; it must be a {'whole ' if kind is int else ''}number")
    return int(value) if kind is int else float(value)


def place_text(place: Place) -> str:
    """A place in words.

    Args:
        place: device, model, tensor parallelism, type.
    """
    device, model, tensor_parallel, dtype = place
    return f"{model} ({dtype}) on {tensor_parallel} x {device}"
