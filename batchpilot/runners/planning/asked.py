"""What `batchpilot plan` was told of hardware and load, and the one deployment that follows from it."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from functools import cached_property
from pathlib import Path

from rich.console import Console

from batchpilot.configs.catalogue import DeviceSpec, ModelSpec, Power, Price, devices
from batchpilot.configs.catalogue import device as find_device
from batchpilot.configs.catalogue import model as find_model
from batchpilot.configs.footprint import kv_type, weight_type
from batchpilot.core.slo import SLO
from batchpilot.latency.model.parameter_file import read_parameters
from batchpilot.runners.planning.choosing import Choice, Refused, compare, ways
from batchpilot.runners.planning.loads import find_load
from batchpilot.runners.planning.measured import measured_or_refused
from batchpilot.runners.planning.planned import Question

_STAND_IN = "H100-80GB"
"""Whose requests a scenario draws where no device is given, since its load may depend on it."""

_TOLD = 4


@dataclass(frozen=True)
class Hardware:
    """Model and hardware as typed, None where nothing was; what a file of parameters was measured on counts then.

    Attributes:
        device: its name.
        model: its name, or a path.
        tensor_parallel: devices that share the model.
        dtype: type of the weights.
        kv_dtype: type of the KV cache.
        engine: software whose measured operators count.
        parameters: file of the step latency.
        pipeline_parallel: stages that the layers are cut into.
    """

    device: str | None
    model: str | None
    tensor_parallel: int | None
    dtype: str | None
    kv_dtype: str | None
    engine: str | None
    parameters: Path | None
    pipeline_parallel: int = 1

    @cached_property
    def measured(self) -> Mapping[str, str | int]:
        """What the file of parameters was measured on."""
        return {} if self.parameters is None else read_parameters(self.parameters).known_hardware()

    @property
    def model_name(self) -> str:
        """The model, as it is called."""
        return _named("model", self.model, self.measured)

    @property
    def served(self) -> ModelSpec:
        """The model."""
        return find_model(self.model_name)

    @property
    def chip(self) -> DeviceSpec | None:
        """The device; None where all are to be compared."""
        if self.device is None and not self.measured.get("device"):
            return None
        return find_device(_named("device", self.device, self.measured))

    @property
    def share(self) -> int | None:
        """Devices that share the model; None where every number is to be compared."""
        known = int(self.measured.get("tensor_parallel", 1)) if self.parameters is not None else None
        return self.tensor_parallel or known

    @property
    def is_whole(self) -> bool:
        """Whether it names one deployment."""
        return self.parameters is not None or not (self.chip is None or self.share is None or self.dtype is None)


@dataclass(frozen=True)
class Tariffs:
    """What the cost of a way follows from.

    Attributes:
        prices: by device.
        powers: by device.
        rate_per_s: requests per second to be served; None for as much as one engine takes.
    """

    prices: Mapping[str, Price]
    powers: Mapping[str, Power]
    rate_per_s: float | None


def question_of(
    hardware: Hardware, workload: str, prefix_cache: bool | None, tower: str | None, slo: SLO, attainment: float
) -> Question:
    """The question as far as it was asked: a device stands in where none was given, and one serves where no number was.

    Args:
        hardware: as typed.
        workload: as typed.
        prefix_cache: whether the engine keeps what prompts have in common; None for what a scenario says.
        tower: what encodes images; None for what a scenario says.
        slo: what is promised.
        attainment: share of the requests to be served within it.

    Raises:
        ValueError: a name is unknown, or the load cannot be served so.
        OSError: a file cannot be read.
    """
    served, chip, share = hardware.served, hardware.chip or find_device(_STAND_IN), hardware.share or 1
    kind = weight_type(hardware.dtype, served)
    load = find_load(workload, chip, served, share, prefix_cache, tower)
    return Question(
        chip,
        served,
        share,
        kind,
        workload,
        load.draw,
        slo,
        attainment,
        kv_type(hardware.kv_dtype, served),
        hardware.parameters,
        shared=load.shared,
        prefix_cache=load.prefix_cache,
        vision=load.vision,
        pipeline_parallel=hardware.pipeline_parallel,
    )


def settle(question: Question, hardware: Hardware, tariffs: Tariffs) -> tuple[Question, list[Choice], list[Refused]]:
    """The one deployment that is planned: the one that was named, or the cheapest of those that serve the load.

    Args:
        question: as far as it was asked.
        hardware: as typed.
        tariffs: what costs follow from.

    Returns:
        The question of that deployment, the ways that were compared, the cheapest first, and those that cannot serve.

    Raises:
        ValueError: nothing serves the load, or a measurement is missing.
    """
    if hardware.parameters is not None:
        if hardware.pipeline_parallel > 1:
            raise ValueError("--pipeline-parallel and --parameters are given; a file's step times are the engine's own")
        return question, [], []
    named, engine, kv_dtype = hardware.model_name, hardware.engine, hardware.kv_dtype
    if hardware.is_whole:
        served, share = question.model, question.tensor_parallel
        known = measured_or_refused(question.device, served, named, share, question.dtype, engine, kv_dtype)
        return replace(question, known=known), [], []
    prices, powers, rate = tariffs.prices, tariffs.powers, tariffs.rate_per_s
    with Console(stderr=True).status(f"planning {question.model.name}") as status:
        chips = devices() if hardware.chip is None else (hardware.chip,)
        layouts = ways(chips, question.model, hardware.share, hardware.dtype and question.dtype, engine)
        choices, refused = compare(question, named, layouts, prices, rate, engine, kv_dtype, status.update, powers)
    if not choices:
        raise ValueError(_nothing_serves(refused))
    return choices[0].question, choices, refused


def _named(what: str, typed: str | None, measured: Mapping[str, str | int]) -> str:
    """The device or model to plan for: as typed, else what the parameter file was measured on."""
    found = typed or measured.get(what)
    if found is None:
        raise ValueError(
            f"--{what} is missing, and no parameter file names one; `batchpilot list {what}s` tells the known ones "
            "(where --device is missing, all are compared)"
        )
    return str(found)


def _nothing_serves(refused: Sequence[Refused]) -> str:
    """Why no way serves the load: the ways and their reasons, a few of them."""
    if not refused:
        return "no device is left to plan for; give another --device, --tensor-parallel or --dtype"
    told = [f"{one.tensor_parallel} x {one.device} ({one.dtype}): {one.reason}" for one in refused[:_TOLD]]
    more = f"; and {len(refused) - _TOLD} more" if len(refused) > _TOLD else ""
    return f"{'; '.join(told)}{more}"
