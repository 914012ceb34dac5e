"""The shipped fits: one file of comma-separated rows a device, read when the device is asked for."""

from __future__ import annotations

import csv
from collections.abc import Iterable
from dataclasses import dataclass
from functools import cache
from pathlib import Path

from batchpilot.configs import catalogue
from batchpilot.core.files import write_atomic
from batchpilot.latency.measured.grid import REGIMES
from batchpilot.latency.measured.served import as_served
from batchpilot.latency.model.saturation import SaturationParameters

FOLDER = Path(catalogue.__file__).parent / "measured"
"""Where the shipped files lie."""

_PLACE = ("model", "engine", "tensor_parallel", "expert_parallel", "pipeline_parallel", "dtype", "kv_dtype")
_PARAMETERS = ("p_max", "k_b", "k_s", "w_0", "tau_0", "tau_b", "tau_s", "tau_c", "tau_e", "s_e")
COLUMNS = (*_PLACE, *_PARAMETERS, *REGIMES, "points", "source")


@dataclass(frozen=True, slots=True, kw_only=True)
class MeasuredEntry:
    """Latency of one deployment, fitted to steps composed from measured operators.

    Attributes:
        device: catalogue name.
        model: catalogue name.
        engine: whose operators were measured.
        tensor_parallel: devices that share each layer.
        expert_parallel: groups that these form for the experts.
        pipeline_parallel: stages.
        dtype: type of the weights.
        kv_dtype: type of the KV cache.
        parameters: of the saturation model, for the operators alone.
        errors: mean relative error of each kind of step.
        points: steps that were fitted.
        source: package, its version, the grid, the day.
    """

    device: str
    model: str
    engine: str
    tensor_parallel: int
    expert_parallel: int
    pipeline_parallel: int
    dtype: str
    kv_dtype: str
    parameters: SaturationParameters
    errors: dict[str, float]
    points: int
    source: str

    @property
    def served(self) -> SaturationParameters:
        """Step latency of the engine at work: the operators' and what it adds."""
        return as_served(self.parameters, self.engine)

    @property
    def provenance(self) -> str:
        """One line for tables."""
        shared = f", experts in {self.expert_parallel} groups" if self.expert_parallel > 1 else ""
        staged = f", {self.pipeline_parallel} stages" if self.pipeline_parallel > 1 else ""
        errors = ", ".join(f"{name} {error:.1%}" for name, error in self.errors.items() if error == error)
        return (
            f"measured: {self.model} ({self.dtype}, KV {self.kv_dtype}) on {self.tensor_parallel} x {self.device}"
            f"{shared}{staged} under {self.engine}; {self.source}; {self.points} steps, mean error {errors}"
        )


def write_table(path: Path, entries: Iterable[MeasuredEntry]) -> Path:
    """Write the entries of a device, by model and layout.

    Args:
        path: the file to write.
        entries: of one device.
    """
    ordered = sorted(entries, key=lambda entry: tuple(getattr(entry, name) for name in _PLACE))
    lines = [",".join(COLUMNS)]
    for entry in ordered:
        values = entry.parameters.to_dict()
        lines.append(
            ",".join(
                [
                    *(str(getattr(entry, name)) for name in _PLACE),
                    *(f"{values[name]:.5g}" for name in _PARAMETERS),
                    *(f"{entry.errors[name]:.4f}" for name in REGIMES),
                    str(entry.points),
                    entry.source,
                ]
            )
        )
    return write_atomic(path, "\n".join(lines) + "\n")


@cache
def read_table(path: Path) -> tuple[MeasuredEntry, ...]:
    """The entries of a device; none where there is no such file.

    Args:
        path: what `write_table` wrote, named for the device.

    Raises:
        ValueError: the file is not of that form; the message names the line.
    """
    if not path.is_file():
        return ()
    with path.open(encoding="utf-8", newline="") as file:
        rows = csv.DictReader(file)
        if tuple(rows.fieldnames or ()) != COLUMNS:
            raise ValueError(f"{path} has columns {rows.fieldnames}; expected {', '.join(COLUMNS)}")
        return tuple(_entry(path, rows.line_num, row) for row in rows)


def _entry(path: Path, line: int, row: dict[str, str]) -> MeasuredEntry:
    try:
        return MeasuredEntry(
            device=path.stem,
            model=row["model"],
            engine=row["engine"],
            tensor_parallel=int(row["tensor_parallel"]),
            expert_parallel=int(row["expert_parallel"]),
            pipeline_parallel=int(row["pipeline_parallel"]),
            dtype=row["dtype"],
            kv_dtype=row["kv_dtype"],
            parameters=SaturationParameters(**{name: float(row[name]) for name in _PARAMETERS}),
            errors={name: float(row[name]) for name in REGIMES},
            points=int(row["points"]),
            source=row["source"],
        )
    except (TypeError, ValueError) as error:
        raise ValueError(f"{error} (file {path}, line {line})") from None


def measured_entries(device: str) -> tuple[MeasuredEntry, ...]:
    """The shipped entries of a device, none where nothing was measured.

    Args:
        device: catalogue name.
    """
    return read_table(FOLDER / f"{device}.csv")
