"""What a fleet is asked to serve, and with what: a scenario's requests for as many replicas, and the replicas."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace

import numpy as np
from numpy.typing import NDArray

from batchpilot.configs.catalogue import device as find_device
from batchpilot.configs.catalogue import model as find_model
from batchpilot.configs.catalogue import powers as find_powers
from batchpilot.configs.catalogue import prices as find_prices
from batchpilot.configs.scenario import Scenario
from batchpilot.core.limits import Limits
from batchpilot.core.tuner import Tuner
from batchpilot.envs.fleet.finding import share_found
from batchpilot.envs.scenarios import GRACE_S, PreparedRun, capacity_per_s, prepare
from batchpilot.fleet.spec import ReplicaSpec
from batchpilot.latency.planning.energy import EnergyModel
from batchpilot.workloads.build import add_prompts
from batchpilot.workloads.table import RequestTable, concatenate

_SEED_STRIDE = 10_007
_PROMPT_STREAM = 33

Make = Callable[[PreparedRun, int], Limits | Tuner]
"""What each replica runs with: from its engine's run and a seed."""


@dataclass(frozen=True, eq=False)
class Offer:
    """One seed of a comparison.

    Attributes:
        requests: what arrives at the fleet.
        specs: kinds of replicas.
        horizon_ms: where the run stops.
        capacity_per_s: requests a second that one replica of the first kind serves, estimated.
        load: offered requests over what all replicas together serve, estimated.
        latency: where the first kind's latency comes from.
        found: share of the prompt tokens that a replica of the first kind finds in its prefix cache where they take
            turns, estimated; 0 without one.
    """

    requests: RequestTable
    specs: Sequence[ReplicaSpec]
    horizon_ms: float
    capacity_per_s: float
    load: float
    latency: str
    found: float = 0.0

    @property
    def capacity_tokens_per_s(self) -> float:
        """Prompt and output tokens a second that one replica of the first kind computes, estimated."""
        return self.capacity_per_s * float(to_compute(self.requests, self.found).mean())

    @property
    def capacity_output_tokens_per_s(self) -> float:
        """Output tokens of it."""
        return self.capacity_per_s * float(self.requests.output_tokens.mean())


def offer(
    scenario: Scenario, kinds: Sequence[tuple[str, int]], make: Make, seed: int, load: float | None, startup_s: float
) -> Offer:
    """A scenario for a fleet: as many independent draws of it as there are replicas, or its trace as it is.

    Args:
        scenario: what one engine would be asked to serve.
        kinds: device and number of replicas.
        make: what each replica runs with.
        seed: of everything drawn.
        load: scale the rate to this share of what all replicas serve together; None leaves it.
        startup_s: of a replica that a scaler adds.

    Raises:
        ValueError: a device does not hold the model, or the load is not above 0.
    """
    runs = [prepare(scenario.model_copy(update={"device": name}), seed) for name, _ in kinds]
    total = sum(number for _, number in kinds)
    home = prepare(scenario, seed)
    if scenario.workload.trace is not None:
        requests = home.requests
    else:
        others = (prepare(scenario, seed + _SEED_STRIDE * k).requests for k in range(1, total))
        requests = _of_one_service(concatenate([home.requests, *others]), scenario, seed)
    prompt, output = float(requests.prompt_tokens.mean()), float(requests.output_tokens.mean())
    found = [share_found(run.engine, requests, total) for run in runs]
    each = [
        capacity_per_s(run.engine.latency, run.engine.capacity_tokens, prompt, output, share)
        for run, share in zip(runs, found, strict=True)
    ]
    capacity = sum(rate * number for rate, (_, number) in zip(each, kinds, strict=True))
    lasting_s = float(requests.arrival_ms.max() - requests.arrival_ms.min()) / 1000.0
    offered = len(requests) / lasting_s / capacity
    if load is not None:
        requests, offered = requests.scale_rate(load / offered), load
    known, powers, served = find_prices(None), find_powers(None), find_model(scenario.model)
    specs = []
    for (name, number), run, rate in zip(kinds, runs, each, strict=True):
        made = make(run, seed)
        limits = made if isinstance(made, Limits) else _maker(make, run, seed)
        price, power = known.get(name), powers.get(name)
        energy = (
            None
            if power is None
            else EnergyModel(power, find_device(name), served, scenario.tensor_parallel, scenario.dtype)
        )
        specs.append(
            ReplicaSpec(
                replace(run.engine, drift=()),
                limits,
                name=name,
                count=number,
                weight=rate / max(each),
                devices=scenario.tensor_parallel,
                usd_per_device_hour=None if price is None else price.usd_per_hour,
                startup_s=startup_s,
                energy=energy,
            )
        )
    end_ms = float(requests.arrival_ms.max()) + 1000.0 * GRACE_S
    return Offer(requests, specs, end_ms, each[0], offered, runs[0].latency_provenance, found[0])


def _of_one_service(requests: RequestTable, scenario: Scenario, seed: int) -> RequestTable:
    """Requests of several draws that share one stock of texts and images, as users of one service do."""
    workload = scenario.workload
    if workload.conversations is not None or (workload.sharing is None and workload.images is None):
        return requests
    if requests.images is not None:
        bare = requests.prompt_tokens - requests.images.tokens
        requests = replace(requests, prompt_tokens=bare, images=None)
    rng = np.random.default_rng([seed, _PROMPT_STREAM])
    return add_prompts(replace(requests, prefixes=None), workload, rng)


def _maker(make: Make, run: PreparedRun, seed: int) -> Callable[[int], Tuner]:
    def made(replica: int) -> Tuner:
        tuner = make(run, seed + replica)
        assert not isinstance(tuner, Limits)
        return tuner

    return made


def to_compute(requests: RequestTable, found: float) -> NDArray[np.float64]:
    """Prompt and output tokens of each request that have to be computed, shape (n,).

    Args:
        requests: what arrives.
        found: share of the prompt tokens that prefix caches have, 0-1.
    """
    return np.asarray((1.0 - found) * requests.prompt_tokens + requests.output_tokens, np.float64)


def rates(offered: Offer, slot_s: float) -> tuple[list[float], list[float]]:
    """Tokens to compute that arrive a second, slot by slot, for the scaler that knows them.

    Turns count when they would come if answers took no time.

    Args:
        offered: what arrives.
        slot_s: width of a slot.
    """
    requests = offered.requests
    tokens = to_compute(requests, offered.found)
    slot = (requests.arrival_ms / 1000.0 // slot_s).astype(int)
    summed = np.bincount(slot, tokens) / slot_s
    return [slot_s * k for k in range(len(summed))], summed.tolist()
