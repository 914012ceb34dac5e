"""The file that `batchpilot calibrate --out` writes, read back: the parameters, of what, and how good they are."""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from batchpilot.configs import catalogue
from batchpilot.configs.catalogue import DeviceSpec, ModelSpec
from batchpilot.configs.reading import read_yaml
from batchpilot.latency.model.roofline import LatencyEstimate
from batchpilot.latency.model.saturation import SaturationParameters


@dataclass(frozen=True, slots=True)
class ParameterFile:
    """Step latency that somebody measured.

    Attributes:
        path: where it was read from.
        parameters: of the saturation model.
        device: what was measured, as the file says; None where it does not.
        model: likewise.
        tensor_parallel: likewise.
        kind: measured, or what else the file says of itself.
        noise: standard deviation of the logarithm of a step's time beside what the parameters say; None where the file
            does not say.
        front_ms: from a client to the engine and back, part of each TTFT; 0 where the file does not say.
        remarks: source, number of steps, mean error and date, those that the file states.
    """

    path: Path
    parameters: SaturationParameters
    device: str | None = None
    model: str | None = None
    tensor_parallel: int | None = None
    kind: str = "given"
    noise: float | None = None
    front_ms: float = 0.0
    remarks: tuple[str, ...] = ()

    @property
    def estimate(self) -> LatencyEstimate:
        """The parameters with one line for tables."""
        share = f"{self.tensor_parallel} x " if self.tensor_parallel else ""
        of = " on ".join(part for part in (self.model, self.device and share + self.device) if part)
        told = ", ".join(part for part in (of, *self.remarks) if part)
        return LatencyEstimate(self.parameters, f"{self.kind}: {self.path.name}" + (f" ({told})" if told else ""))

    def known_hardware(self) -> dict[str, str | int]:
        """`device`, `model` and `tensor_parallel` as a scenario names them, those that the catalogue knows."""
        known: dict[str, str | int] = {}
        for name, find in (("device", catalogue.device), ("model", catalogue.model)):
            try:
                known[name] = find(getattr(self, name) or "").name
            except ValueError:
                continue
        if self.tensor_parallel is not None:
            known["tensor_parallel"] = self.tensor_parallel
        return known

    def check(self, device: DeviceSpec, model: ModelSpec, tensor_parallel: int) -> None:
        """Refuse to call the measured hardware by another's name.

        Args:
            device: what is said to serve.
            model: what is said to be served.
            tensor_parallel: devices that are said to share it.

        Raises:
            ValueError: the file was measured on other hardware; the message says which.
        """
        said = {"device": device.name, "model": model.name, "tensor_parallel": tensor_parallel}
        for name, measured in self.known_hardware().items():
            if said[name] != measured:
                raise ValueError(
                    f"{self.path} was measured with {name} {measured}, not {said[name]}: name what was measured, "
                    "or leave the file out to take the catalogue's latency"
                )


def read_parameters(path: str | Path) -> ParameterFile:
    """Read a parameter file.

    Args:
        path: what `calibrate --out` wrote, or parameters by name, at the top level or under `parameters`.

    Raises:
        ValueError: it holds something else, or a wrong value; the message names the file.
        OSError: it cannot be read.
    """
    parameters = SaturationParameters.from_yaml(path)
    data = read_yaml(path).data
    share = data.get("tensor_parallel")
    points, error = data.get("points"), data.get("mean_relative_error")
    remarks = (
        data.get("source"),
        f"{points} steps" if isinstance(points, int) else None,
        f"mean error {error:.1%}" if isinstance(error, float) else None,
        data.get("measured_on"),
    )
    return ParameterFile(
        Path(path),
        parameters,
        _text(data.get("device")),
        _text(data.get("model")),
        share if isinstance(share, int) else None,
        str(data.get("kind", "given")),
        _at_least_0(path, data, "noise"),
        _at_least_0(path, data, "front_ms") or 0.0,
        tuple(str(remark) for remark in remarks if remark),
    )


def _text(value: Any) -> str | None:
    return None if value is None else str(value)


def _at_least_0(path: str | Path, data: Mapping[str, Any], name: str) -> float | None:
    value = data.get(name)
    if value is None:
        return None
    if isinstance(value, bool) or not isinstance(value, int | float) or not 0.0 <= value < math.inf:
        raise ValueError(f"{path}: {name} is {value!r}; it must be a number >= 0")
    return float(value)
