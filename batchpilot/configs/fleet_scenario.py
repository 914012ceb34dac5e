"""Fleet scenarios: one file says what a fleet starts with, how far it may grow, who asks, and what befalls it."""

from __future__ import annotations

from functools import cache, cached_property
from pathlib import Path
from typing import Annotated, Literal

from pydantic import Field, ValidationError, model_validator

from batchpilot.configs.errors import ConfigError
from batchpilot.configs.load_spec import Positive
from batchpilot.configs.reading import read_yaml
from batchpilot.configs.scenario import Device, EngineSpec, Family, Model, Promise, Scenario, SloTargets, WeightType
from batchpilot.configs.strict import StrictModel, config_error, problem
from batchpilot.configs.workload_spec import Workload
from batchpilot.core.names import unknown_name

_FOLDER = Path(__file__).parent / "fleets"

SUITE = "fleet"
"""What the leaderboard calls all catalogued fleet scenarios together."""

Count = Annotated[int, Field(ge=1)]


class Failure(StrictModel):
    """Something that befalls a replica.

    Attributes:
        at_s: when.
        replica: its number, in order of `replicas`.
        kind: it dies (and loses what it has), hangs, or slows.
        lasting_s: until it is as before; left out for good.
        factor: of the step time, of one that slows.
    """

    at_s: Annotated[float, Field(ge=0)]
    replica: Annotated[int, Field(ge=0)]
    kind: Literal["dies", "hangs", "slows"]
    lasting_s: Positive | None = None
    factor: Positive = 2.0


class Pools(StrictModel):
    """How the same replicas may be split into some that prefill and some that decode.

    Attributes:
        prefill: replicas that prefill, by device; the others decode.
        bandwidth_gb_per_s: at which a replica sends or takes KV, 10^9 bytes a second.
        latency_ms: from the last byte until decoding may begin.
    """

    prefill: Annotated[dict[Device, Count], Field(min_length=1)]
    bandwidth_gb_per_s: Positive
    latency_ms: Annotated[float, Field(ge=0)] = 0.0


class FleetScenario(StrictModel):
    """One run of a fleet.

    Attributes:
        name: what tables call it; a catalogued scenario's file is called the same.
        description: one sentence on what it shows.
        family: the kind of load.
        replicas: those that stand ready at the start, by device.
        scaled: most replicas of each kind that a scaler adds to, the cheapest a served token first; left out, the first
            kind alone is scaled.
        least: fewest replicas of these kinds together.
        most: most of them.
        startup_s: from the decision to add a replica until it serves.
        interval_s: between two decisions.
        day_s: length of the day that forecasts may look for; left out for none.
        model: what every replica serves.
        tensor_parallel: devices that a replica takes.
        dtype: how weights are stored.
        workload: what each replica that stands ready is asked to serve; as many draws of it arrive as there are, with
            one stock of shared texts and images, and its `load` is a multiple of what one replica of the first kind
            serves.
        slos: targets that change or add to `core.SLO_CLASSES`.
        promise: targets of every request instead.
        engine: how replicas serve.
        pools: how strategies that split the replicas do so; left out, they leave them whole.
        failures: what befalls them.
    """

    name: Annotated[str, Field(pattern=r"^[a-z0-9][a-z0-9.-]*$")]
    description: str
    family: Family
    replicas: Annotated[dict[Device, Annotated[int, Field(ge=0)]], Field(min_length=1)]
    scaled: Annotated[dict[Device, Count], Field(min_length=1)] | None = None
    least: Count = 1
    most: Count = 8
    startup_s: Annotated[float, Field(ge=0)] = 60.0
    interval_s: Positive = 30.0
    day_s: Positive | None = None
    model: Model
    tensor_parallel: Count = 1
    dtype: WeightType = "fp16"
    workload: Workload
    slos: dict[str, SloTargets] = Field(default_factory=dict)
    promise: Promise | None = None
    engine: EngineSpec = EngineSpec()
    pools: Pools | None = None
    failures: list[Failure] = Field(default_factory=list)

    @model_validator(mode="after")
    def _bounds_agree(self) -> FleetScenario:
        growing = dict([next(iter(self.replicas.items()))]) if self.scaled is None else self.scaled
        for device, most in (self.scaled or {}).items():
            if device not in self.replicas:
                known = ", ".join(self.replicas)
                raise problem(f"{device} is none of {known}; write it there, with 0 ready", "scaled", device)
            if most < self.replicas[device]:
                raise problem(f"{most} is fewer than the {self.replicas[device]} that stand ready", "scaled", device)
        ready = sum(self.replicas[device] for device in growing)
        if not self.least <= ready <= self.most:
            kinds = "the first kind" if self.scaled is None else "the kinds that are scaled"
            told = f"{ready} replicas of {kinds} stand ready, outside least {self.least} and most {self.most}"
            raise problem(told, "replicas")
        total = sum(self.replicas.values())
        if self.pools is not None:
            for device, count in self.pools.prefill.items():
                if count > self.replicas.get(device, 0):
                    told = f"{count} replicas of {device} shall prefill; {self.replicas.get(device, 0)} stand ready"
                    raise problem(told, "pools", "prefill", device)
            if sum(self.pools.prefill.values()) == total:
                raise problem(f"all {total} replicas prefill; leave one that decodes", "pools", "prefill")
        for index, failure in enumerate(self.failures):
            if failure.replica >= total:
                told = f"replica {failure.replica} does not stand ready at the start; there are {total}, from 0"
                raise problem(told, "failures", index, "replica")
            if failure.kind == "hangs" and failure.lasting_s is None:
                raise problem("a replica that hangs for good has died: say kind dies", "failures", index, "kind")
        if self.workload.closed_loop is not None:
            raise problem("a fleet has no fixed number of clients: give phases, conversations or a trace", "workload")
        return self

    @cached_property
    def each(self) -> Scenario:
        """What one replica of the first kind would be asked to serve alone."""
        return Scenario.model_validate(
            {
                "name": self.name,
                "description": self.description,
                "family": self.family,
                "device": next(iter(self.replicas)),
                "decision_interval_ms": 1000.0 * self.interval_s,
            }
            | {
                name: self.model_dump()[name]
                for name in ("model", "tensor_parallel", "dtype", "workload", "slos", "promise", "engine")
            }
        )


def load_fleet_scenario(path: str | Path) -> FleetScenario:
    """Read a fleet scenario file.

    Args:
        path: a YAML file.

    Raises:
        ConfigError: not YAML, an unknown key, a value that is not allowed, a contradiction; the message names file,
            line, key, what was given and what is allowed.
        OSError: the file cannot be read.
    """
    file = read_yaml(path)
    try:
        return FleetScenario.model_validate(file.data)
    except ValidationError as error:
        raise config_error(error, file) from None


def fleet_scenario_names() -> list[str]:
    """Names of the catalogued fleet scenarios."""
    return sorted(path.stem for path in _FOLDER.glob("*.yaml"))


@cache
def fleet_scenario(name: str) -> FleetScenario:
    """A catalogued fleet scenario.

    Args:
        name: one of `fleet_scenario_names()`.

    Raises:
        ConfigError: no such scenario; the message names the closest ones.
    """
    if name not in fleet_scenario_names():
        raise ConfigError(unknown_name(name, fleet_scenario_names(), "fleet scenario"))
    return load_fleet_scenario(_FOLDER / f"{name}.yaml")
