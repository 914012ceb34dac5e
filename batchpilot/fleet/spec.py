"""What a fleet consists of: replicas, links between them, what befalls them. Times in ms unless a name differs."""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass, field

from batchpilot.core.limits import Limits
from batchpilot.core.names import lookup
from batchpilot.core.tuner import Tuner
from batchpilot.engines.simulated.config import EngineConfig
from batchpilot.fleet.arrays import DECODE, PREFILL, WHOLE
from batchpilot.latency.planning.energy import EnergyModel

BOTH = "both"

ROLES = {BOTH: WHOLE, "prefill": PREFILL, "decode": DECODE}
"""What a replica does of a request, by the name that users type."""


@dataclass(frozen=True, slots=True)
class ReplicaSpec:
    """One kind of replica.

    Attributes:
        engine: device and model as simulated.
        limits: constant limits, or what makes a tuner for each replica (called with the replica's number).
        name: what tables call the kind.
        count: replicas of it that stand ready at the start.
        weight: its share under the rules that weigh, > 0.
        version: of the model, for routing by version and experiments.
        tier: 0 for the model that is asked for, 1 for a smaller one that may stand in.
        role: "both" serves whole requests; "prefill" computes prompts and makes the first token, "decode" goes on.
        devices: that one replica takes, >= 1.
        usd_per_device_hour: price, None where none is known.
        startup_s: from the decision to add a replica until it serves: weights, warm-up.
        energy: what turns its work into joules, None where its power is not known.

    Raises:
        ValueError: a value is outside its bound; the message names it.
    """

    engine: EngineConfig
    limits: Limits | Callable[[int], Tuner] = field(default_factory=lambda: Limits(256, 2048))
    name: str = "replica"
    count: int = 1
    weight: float = 1.0
    version: int = 0
    tier: int = 0
    role: str = BOTH
    devices: int = 1
    usd_per_device_hour: float | None = None
    startup_s: float = 60.0
    energy: EnergyModel | None = None

    def __post_init__(self) -> None:
        for name, least in (("count", 0), ("version", 0), ("devices", 1), ("startup_s", 0)):
            value = getattr(self, name)
            if not (value >= least and math.isfinite(value)):
                raise ValueError(f"{name} of {self.name} is {value}; it must be >= {least} and finite")
        if not (math.isfinite(self.weight) and self.weight > 0):
            raise ValueError(f"weight of {self.name} is {self.weight}; it must be above 0")
        lookup(ROLES, self.role, "role of a replica")
        if self.role != BOTH and self.engine.mode != "continuous":
            raise ValueError(f"mode of {self.name} is {self.engine.mode}; a {self.role} replica batches continuously")
        if self.tier not in (0, 1):
            raise ValueError(f"tier of {self.name} is {self.tier}; it must be 0 or 1")
        if self.usd_per_device_hour is not None and not self.usd_per_device_hour >= 0:
            raise ValueError(f"usd_per_device_hour of {self.name} is {self.usd_per_device_hour}; it must be >= 0")


@dataclass(frozen=True, slots=True)
class Link:
    """What moves KV from a replica that prefills to one that decodes. Each has one; it moves one request's at a time.

    Attributes:
        bandwidth_gb_per_s: 10^9 bytes a second, > 0; infinity for none that is felt.
        kv_bytes_per_token: of the model, all devices of a replica together, >= 0.
        latency_ms: from the last byte sent until decoding may begin, >= 0; others may send meanwhile.

    Raises:
        ValueError: a value is outside its bound; the message names it.
    """

    bandwidth_gb_per_s: float
    kv_bytes_per_token: float
    latency_ms: float = 0.0

    def __post_init__(self) -> None:
        if not self.bandwidth_gb_per_s > 0:
            raise ValueError(f"bandwidth_gb_per_s of a link is {self.bandwidth_gb_per_s}; it must be above 0")
        for name in ("kv_bytes_per_token", "latency_ms"):
            value = getattr(self, name)
            if not (value >= 0 and math.isfinite(value)):
                raise ValueError(f"{name} of a link is {value}; it must be >= 0 and finite")

    @property
    def ms_per_token(self) -> float:
        """Time that the KV of one token takes on the wire."""
        return self.kv_bytes_per_token / (self.bandwidth_gb_per_s * 1e6)


FAULTS = {"dies": "it loses what it has", "hangs": "it stands still", "slows": "its steps take longer"}


@dataclass(frozen=True, slots=True)
class Fault:
    """Something that befalls a replica.

    Attributes:
        at_ms: when.
        replica: its number, in order of the specs, those that stand ready first.
        kind: a key of `FAULTS`.
        lasting_ms: until it is as before; a replica that died starts anew then. Infinity for good.
        factor: of the step time, of one that slows, > 0.

    Raises:
        ValueError: a value is outside its bound; the message names it.
    """

    at_ms: float
    replica: int
    kind: str = "dies"
    lasting_ms: float = math.inf
    factor: float = 2.0

    def __post_init__(self) -> None:
        lookup(FAULTS, self.kind, "kind of fault")
        if not (self.at_ms >= 0 and math.isfinite(self.at_ms)):
            raise ValueError(f"at_ms of a fault is {self.at_ms}; it must be >= 0 and finite")
        if self.replica < 0:
            raise ValueError(f"replica of a fault is {self.replica}; they are counted from 0")
        if not self.lasting_ms > 0:
            raise ValueError(f"lasting_ms of a fault is {self.lasting_ms}; it must be above 0")
        if self.kind == "hangs" and not math.isfinite(self.lasting_ms):
            raise ValueError("a replica that hangs for good has died: say kind='dies'")
        if not (math.isfinite(self.factor) and self.factor > 0):
            raise ValueError(f"factor of a fault is {self.factor}; it must be above 0")
