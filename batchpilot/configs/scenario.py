"""Scenarios: one file says device, model, load and promises of one run. Catalogued ones stand in `scenarios/`."""

from __future__ import annotations

import math
from functools import cache
from pathlib import Path
from typing import Annotated, Any, Literal

from pydantic import AfterValidator, Field, ValidationError, model_validator

from batchpilot.configs import catalogue
from batchpilot.configs.errors import ConfigError
from batchpilot.configs.footprint import BYTES_PER_WEIGHT
from batchpilot.configs.image_spec import VisionSpec
from batchpilot.configs.kinds import wrong_kind
from batchpilot.configs.load_spec import Positive
from batchpilot.configs.reading import YamlFile, read_yaml
from batchpilot.configs.strict import StrictModel, config_error, problem
from batchpilot.configs.workload_spec import Workload
from batchpilot.core.names import lookup, unknown_name
from batchpilot.core.slo import SLO, SLO_CLASSES
from batchpilot.core.speculation import Speculation

_FOLDER = Path(__file__).parent / "scenarios"
_SUITES = Path(__file__).parent / "suites.yaml"

Device = Annotated[str, AfterValidator(lambda name: catalogue.device(name).name)]
Model = Annotated[str, AfterValidator(catalogue.model_reference)]


def _weight_type(name: str) -> str:
    lookup(BYTES_PER_WEIGHT, name, "dtype")
    return name


WeightType = Annotated[str, AfterValidator(_weight_type)]
Family = Literal[
    "stationary",
    "bursty",
    "diurnal",
    "prompt-shift",
    "slo-shift",
    "drift",
    "overload",
    "closed-loop",
    "trace",
    "agents",
    "images",
    "speculation",
]


class SloTargets(StrictModel):
    """Targets of one SLO class; `.inf` is no promise."""

    ttft_ms: Annotated[float, Field(gt=0, allow_inf_nan=True)]
    tpot_ms: Annotated[float, Field(gt=0, allow_inf_nan=True)]


class Promise(StrictModel):
    """What every request is promised, whatever its class; a target that is left out stays the class's."""

    ttft_ms: Annotated[float, Field(gt=0, allow_inf_nan=True)] | None = None
    tpot_ms: Annotated[float, Field(gt=0, allow_inf_nan=True)] | None = None


class Slowdown(StrictModel):
    """The device is slower for a while: it throttles, or a neighbour shares it.

    Attributes:
        start_s: when it begins.
        end_s: when it ends.
        factor: step time is multiplied by this.
    """

    kind: Literal["throttle", "neighbour"]
    start_s: Annotated[float, Field(ge=0)]
    end_s: Positive
    factor: Positive

    @model_validator(mode="after")
    def _in_order(self) -> Slowdown:
        if self.end_s <= self.start_s:
            raise problem(f"end_s {self.end_s:g} is not after start_s {self.start_s:g}", "end_s")
        return self


class ModelSwitch(StrictModel):
    """Another model is served from some moment on.

    Attributes:
        start_s: when.
        model: its name in the model catalogue.
    """

    kind: Literal["model_switch"]
    start_s: Annotated[float, Field(ge=0)]
    model: Model


Drift = Annotated[Slowdown | ModelSwitch, Field(discriminator="kind")]


class SpeculationSpec(StrictModel):
    """How drafts fare where the limits ask for them; see `batchpilot.core.speculation.Speculation`.

    Attributes:
        acceptance: probability that the first token of a draft is accepted.
        decay: factor by which it falls from each token of a draft to the next.
        draft_share: of the model's step, what each step of the drafter takes; 0 for prompt lookup.
        drafted: tokens that the server drafts from its start on, whoever sets the limits; a limit above 0 goes first.
    """

    acceptance: Annotated[float, Field(ge=0, le=1)] = Speculation().acceptance
    decay: Annotated[float, Field(ge=0, le=1)] = Speculation().decay
    draft_share: Annotated[float, Field(ge=0)] = Speculation().draft_share
    drafted: Annotated[int, Field(ge=0)] = Speculation().drafted


class TenantSpec(StrictModel):
    """What one user of the workload may take; see `batchpilot.core.tenants.TenantTerms`.

    Attributes:
        weight: its share under the discipline `fair` is in proportion to it.
        max_running: most of its requests that run at a time; None for no ceiling.
    """

    weight: Positive = 1.0
    max_running: Annotated[int, Field(ge=1)] | None = None


class DeviceSpread(StrictModel):
    """A device that no catalogue knows: near the named one, each time of its step latency off by a factor of its own.

    Attributes:
        spread: standard deviation of the factors' logarithms.
        seed: which of such devices it is.
    """

    spread: Positive
    seed: Annotated[int, Field(ge=0)] = 0


class EngineSpec(StrictModel):
    """How the simulated engine serves.

    Attributes:
        mode: continuous or static (padded) batching.
        prefill: chunked, whole, or selective (long prompts alone).
        block_size: tokens in a KV block.
        prefix_cache: share KV blocks of equal prefixes, as a trace or `workload.sharing` tells them.
        vision: what encodes images; None for an encoding that costs nothing.
        device_spread: what makes the device another than the named one; None for that one.
        noise: standard deviation of the logarithm of step time; where none is stated, a parameter file's own counts.
        estimate_error: relative error (log-normal) of the latency estimate that `step_target_ms` and `ttft_guard` use.
        drift: what changes on the way.
        max_model_len: longest prompt plus output; None takes the model's.
        speculation: how drafts fare; None where the engine is not known to draft.
        tenants: terms by user (`workload.users` of them, 0 the one that sends most); the others' are ordinary.
    """

    mode: Literal["continuous", "static"] = "continuous"
    prefill: Literal["chunked", "whole", "selective"] = "chunked"
    block_size: Annotated[int, Field(ge=1)] = 16
    prefix_cache: bool = False
    vision: VisionSpec | None = None
    device_spread: DeviceSpread | None = None
    noise: Annotated[float, Field(ge=0)] = 0.05
    estimate_error: Annotated[float, Field(ge=0)] = 0.1
    drift: list[Drift] = Field(default_factory=list)
    max_model_len: Annotated[int, Field(ge=2)] | None = None
    speculation: SpeculationSpec | None = None
    tenants: dict[Annotated[int, Field(ge=0)], TenantSpec] = Field(default_factory=dict)

    @model_validator(mode="after")
    def _padded_batches_do_neither(self) -> EngineSpec:
        if self.prefix_cache and self.mode == "static":
            raise problem("padded batches share no blocks; take mode continuous, or leave it off", "prefix_cache")
        if self.speculation is not None and self.speculation.drafted and self.mode == "static":
            told = "padded batches advance together and draft nothing; take mode continuous, or leave it out"
            raise problem(told, "speculation", "drafted")
        return self


class Scenario(StrictModel):
    """One run: what serves, who asks, what was promised.

    Attributes:
        name: what tables call it; a catalogued scenario's file is called the same.
        description: one sentence on what it shows.
        family: the kind of load.
        device: a name or alias in the device catalogue; becomes the catalogue's own name.
        model: likewise in the model catalogue.
        tensor_parallel: devices that share the model.
        dtype: how weights are stored.
        parameters: file of the engine's step latency, as `batchpilot calibrate --out` writes it, instead of what the
            catalogue says of device and model.
        duration_s: engine time after which the run stops. That of phases or conversations may be left out; else None
            runs until every request has ended.
        decision_interval_ms: engine time between two decisions of a tuner.
        workload: who asks for how much, and when.
        slos: targets that change or add to `core.SLO_CLASSES`.
        promise: targets of every request instead, in the time of whichever engine serves.
        engine: how the engine serves.
    """

    name: Annotated[str, Field(pattern=r"^[a-z0-9][a-z0-9.-]*$")]
    description: str
    family: Family
    device: Device
    model: Model
    tensor_parallel: Annotated[int, Field(ge=1)] = 1
    dtype: WeightType = "fp16"
    parameters: str | None = None
    duration_s: Positive | None = None
    decision_interval_ms: Positive = 1000.0
    workload: Workload
    slos: dict[str, SloTargets] = Field(default_factory=dict)
    promise: Promise | None = None
    engine: EngineSpec = EngineSpec()

    @model_validator(mode="before")
    @classmethod
    def _sum_of_phases(cls, data: Any) -> Any:
        """Fill in the duration that the phases add up to, or that conversations have, before anything is frozen."""
        try:
            workload = data["workload"]
            phases = workload["phases"] if workload.get("phases") else [workload["conversations"]]
            total = float(sum(phase["duration_s"] for phase in phases))
        except (AttributeError, KeyError, TypeError, OverflowError):
            return data
        given = data.get("duration_s")
        if isinstance(given, int | float) and not math.isclose(given, total):
            raise problem(f"duration_s is {given}, but the workload lasts {total:g} s; leave it out", "duration_s")
        return data if given is not None else {**data, "duration_s": total}

    @model_validator(mode="after")
    def _names_and_times_agree(self) -> Scenario:
        classes = self.slo_classes()
        for place, senders in self.workload.senders.items():
            for name in senders.slo_mix:
                if name not in classes:
                    raise problem(unknown_name(name, classes, "SLO class"), "workload", *place, "slo_mix", name)
        trace = self.workload.trace
        if trace is not None and trace.loop and self.duration_s is None:
            raise problem("a looped trace never ends; give duration_s", "workload", "trace", "loop")
        for index, drift in enumerate(self.engine.drift):
            if self.duration_s is not None and drift.start_s >= self.duration_s:
                late = f"drift starts at {drift.start_s:g} s, after the scenario's end at {self.duration_s:g} s"
                raise problem(late, "engine", "drift", index, "start_s")
        return self

    def slo_classes(self) -> dict[str, SLO]:
        """Every SLO class that the workload may name: `core.SLO_CLASSES` with this scenario's changes."""
        own = {name: SLO(targets.ttft_ms, targets.tpot_ms, name) for name, targets in self.slos.items()}
        return SLO_CLASSES | own

    @property
    def needs_trace(self) -> bool:
        """Whether the scenario replays a trace that nobody has named yet; `with_trace(file=...)` names it."""
        return self.workload.trace is not None and self.workload.trace.file is None

    def content(self) -> dict[str, Any]:
        """The scenario as plain data, the parameter file by what it holds: what a fingerprint is made of.

        Raises:
            OSError: the parameter file cannot be read.
        """
        data = self.model_dump()
        # What is left off says nothing, so that a run keeps its fingerprint when there is more that could be on.
        if not self.engine.prefix_cache:
            del data["engine"]["prefix_cache"]
        if not self.engine.tenants:
            del data["engine"]["tenants"]
        for name in ("vision", "speculation", "device_spread"):
            if getattr(self.engine, name) is None:
                del data["engine"][name]
        if self.engine.speculation is not None and not self.engine.speculation.drafted:
            del data["engine"]["speculation"]["drafted"]
        for name in ("sharing", "conversations", "images"):
            if getattr(self.workload, name) is None:
                del data["workload"][name]
        if self.workload.images is not None and self.workload.images.per_request == {1: 1.0}:
            del data["workload"]["images"]["per_request"]
        if self.parameters is not None:
            data["parameters"] = Path(self.parameters).read_text(encoding="utf-8")
        return data

    def with_trace(self, **changes: Any) -> Scenario:
        """The same scenario replaying another trace, or another part of it.

        Args:
            **changes: new values of `TraceReplay` fields; a scenario of phases or a closed loop takes its defaults for
                the others and plays to the trace's end.

        Raises:
            ConfigError: a field is unknown or outside its bound.
        """
        data = self.model_dump()
        if self.workload.trace is None:
            data |= {"family": "trace", "duration_s": None}
        trace = (data["workload"]["trace"] or {}) | changes
        data["workload"] = {"trace": trace, "length_estimate_sigma": self.workload.length_estimate_sigma}
        return _validated(YamlFile(Path(f"<{self.name}>"), data, {}))


def load_scenario(path: str | Path) -> Scenario:
    """Read a scenario file.

    Args:
        path: a YAML file; a relative trace or parameter file in it is looked for beside it.

    Raises:
        ConfigError: not YAML, an unknown key, a value that is not allowed, a contradiction; the message names file,
            line, key, what was given, what is allowed and the closest known name.
        OSError: the file cannot be read.
    """
    file = read_yaml(path)
    if told := wrong_kind(path, file.data, "scenario"):
        raise ConfigError(told)
    scenario = _validated(file)
    if scenario.parameters is not None:
        scenario = scenario.model_copy(update={"parameters": str(file.path.parent / scenario.parameters)})
    trace = scenario.workload.trace
    if trace is None or trace.file is None or Path(trace.file).is_absolute():
        return scenario
    return scenario.with_trace(file=str(file.path.parent / trace.file))


def scenario_names() -> list[str]:
    """Names of the catalogued scenarios."""
    return sorted(path.stem for path in _FOLDER.glob("*.yaml"))


@cache
def scenario(name: str) -> Scenario:
    """A catalogued scenario.

    Args:
        name: one of `scenario_names()`.

    Raises:
        ConfigError: no such scenario; the message names the closest ones.
    """
    if name not in scenario_names():
        raise ConfigError(unknown_name(name, scenario_names(), "scenario"))
    return load_scenario(_FOLDER / f"{name}.yaml")


def suites() -> dict[str, list[str]]:
    """Names of the scenarios in each suite."""
    return dict(read_yaml(_SUITES).data)


def suite(name: str) -> list[Scenario]:
    """The scenarios of a suite, in the suite's order.

    Args:
        name: one of `suites()`.

    Raises:
        ConfigError: no such suite; the message names the closest ones.
    """
    known = suites()
    if name not in known:
        raise ConfigError(unknown_name(name, known, "suite"))
    return [scenario(member) for member in known[name]]


def _validated(file: YamlFile) -> Scenario:
    try:
        return Scenario.model_validate(file.data)
    except ValidationError as error:
        raise config_error(error, file) from None
