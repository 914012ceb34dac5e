"""Devices, parallelism and types compared for one load: what each needs and costs, and why some cannot serve it."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any

from batchpilot.configs.catalogue import DeviceSpec, ModelSpec, Power, Price
from batchpilot.latency.measured.operators import SYSTEMS
from batchpilot.latency.measured.shipping import GROUPS, shipped_types
from batchpilot.latency.model.registry import find_latency
from batchpilot.latency.planning.energy import EnergyModel, Work
from batchpilot.latency.planning.planner import Plan
from batchpilot.runners.planning.capacity import find_capacity
from batchpilot.runners.planning.measured import measured_or_refused
from batchpilot.runners.planning.planned import Question

SIMULATED = 4
"""At least so many of the cheapest are simulated, and whichever is cheapest then; the closed form tells the others."""

_SEEDS, _DURATION_S, _FACTORS = (0, 1), 120.0, (0.85, 1.0, 1.15)


@dataclass(frozen=True, eq=False)
class Choice:
    """One way to serve the load.

    Attributes:
        question: device, parallelism and type, and what is asked.
        plan: with the rate that one engine holds, or one of its batches in flight.
        simulated: whether simulation held that rate; else the closed form says so.
        usd_per_hour: price of one device, None where none is known.
        rate_per_s: requests per second to be served; None for as much as one engine takes.
        power: of one device, None where it is not known.
    """

    question: Question
    plan: Plan
    simulated: bool
    usd_per_hour: float | None
    rate_per_s: float | None
    power: Power | None = None

    @property
    def engine(self) -> Plan:
        """The plan of a whole engine, all its batches in flight."""
        return self.question.of_engine(self.plan)

    @property
    def engines(self) -> int:
        """Engines that the load needs."""
        return 1 if self.rate_per_s is None else self.engine.engines_for(self.rate_per_s)

    @property
    def devices(self) -> int:
        """Devices that the load needs."""
        return self.engines * self.question.devices

    @property
    def usd_per_million(self) -> float | None:
        """Cost of a million tokens of output, idle devices included; None without a price."""
        if self.usd_per_hour is None:
            return None
        served = self.rate_per_s or self.engine.rate_per_s
        tokens_per_hour = 3600.0 * served * float(self.question.demand.output_tokens.mean())
        return 1e6 * self.devices * self.usd_per_hour / tokens_per_hour

    @property
    def joules_per_token(self) -> float | None:
        """Energy of a token of output, idle devices included; None without the device's power."""
        if self.power is None:
            return None
        asked, chosen = self.question, self.plan
        batches = self.engines * asked.pipeline_parallel
        served = self.rate_per_s or self.engine.rate_per_s
        busy_ms = min(1000.0 * served / (batches * chosen.rate_per_s), 1000.0)
        steps = busy_ms / chosen.step_ms
        work = Work(busy_ms, steps, steps * chosen.step_tokens, steps * chosen.context_tokens)
        energy = EnergyModel(self.power, asked.device, asked.model, asked.tensor_parallel, asked.dtype)
        return batches * energy.joules(work, 1.0) / (served * float(asked.demand.output_tokens.mean()))

    @property
    def order(self) -> tuple[float, int]:
        """Cheapest first, then fewest devices; those without a price last."""
        cost = self.usd_per_million
        return (math.inf if cost is None else cost, self.devices)

    def stated(self) -> dict[str, Any]:
        """The choice as plain data."""
        return {
            "device": self.question.device.name,
            "tensor_parallel": self.question.tensor_parallel,
            "pipeline_parallel": self.question.pipeline_parallel,
            "dtype": self.question.dtype,
            "rate_per_engine_per_s": self.engine.rate_per_s,
            "simulated": self.simulated,
            "engines": self.engines,
            "devices": self.devices,
            "usd_per_device_hour": self.usd_per_hour,
            "usd_per_million_output_tokens": self.usd_per_million,
            "joules_per_output_token": self.joules_per_token,
            "bound_by": self.plan.bound_by,
            "latency": self.question.latency.provenance,
        }


@dataclass(frozen=True, slots=True)
class Refused:
    """A way that cannot serve the load.

    Attributes:
        device: its name.
        tensor_parallel: devices that share the model.
        dtype: type of the weights.
        reason: what is in the way.
    """

    device: str
    tensor_parallel: int
    dtype: str
    reason: str


def ways(
    devices: Sequence[DeviceSpec],
    model: ModelSpec,
    tensor_parallel: int | None,
    dtype: str | None,
    engine: str | None = None,
) -> Iterator[tuple[DeviceSpec, int, str]]:
    """The layouts to compare: groups of 1 to 8 devices, and the types that were measured for them.

    Where operators of a device were measured, layouts that the catalogue has no fit for are passed over, as long as it
    has any for the model; elsewhere the roofline answers for the published type.

    Args:
        devices: those to compare.
        model: what is served.
        tensor_parallel: this one alone, None for all.
        dtype: this type alone, None for all.
        engine: software whose operators count, None for any.
    """
    for device in devices:
        counts = [tensor_parallel] if tensor_parallel else [count for count in GROUPS if model.heads % count == 0]
        if device.link_gb_per_s is None and tensor_parallel is None:
            counts = [1]
        types = [dtype] if dtype else shipped_types(device, model) if device.name in SYSTEMS else [model.dtype]
        every = [(count, kind) for kind in types for count in counts]
        measured = [way for way in every if _is_measured(device, model, *way, engine)]
        estimated = [way for way in every if way[1] in (dtype, model.dtype)]
        for count, kind in measured or estimated:
            yield device, count, kind


def compare(
    asked: Question,
    named: str,
    layouts: Iterable[tuple[DeviceSpec, int, str]],
    prices: Mapping[str, Price],
    rate_per_s: float | None,
    engine: str | None = None,
    kv_dtype: str | None = None,
    on_progress: Callable[[str], None] = lambda _: None,
    powers: Mapping[str, Power] | None = None,
) -> tuple[list[Choice], list[Refused]]:
    """Plan every layout, simulate the cheapest, and order them by cost.

    Args:
        asked: the load and its promise; its device, parallelism and type are replaced.
        named: what the user called the model, perhaps a path.
        layouts: device, devices that share the model, type of the weights.
        prices: by device.
        rate_per_s: requests per second to be served, None for as much as one engine takes.
        engine: software whose operators count, None for any.
        kv_dtype: type of the KV cache, None for what was measured.
        on_progress: is told what is being looked at.
        powers: by device.
    """
    choices, refused = [], []
    for device, count, kind in layouts:
        on_progress(f"{count} x {device.name}, {kind}")
        try:
            known = measured_or_refused(device, asked.model, named, count, kind, engine, kv_dtype)
            question = replace(asked, device=device, tensor_parallel=count, dtype=kind, known=known)
            plan = question.plan()
        except ValueError as error:
            refused.append(Refused(device.name, count, kind, str(error)))
            continue
        price = prices.get(device.name)
        hourly = None if price is None else price.usd_per_hour
        power = (powers or {}).get(device.name)
        choices.append(Choice(question, plan, False, usd_per_hour=hourly, rate_per_s=rate_per_s, power=power))
    return _held(choices, refused, on_progress), refused


def _held(choices: list[Choice], refused: list[Refused], on_progress: Callable[[str], None]) -> list[Choice]:
    """The choices in order, the cheapest of them simulated: what simulation holds at no rate is refused."""
    done: list[Choice] = []
    waiting = sorted(choices, key=lambda choice: choice.order)
    while waiting and (len(done) < SIMULATED or waiting[0].order < min(done, key=lambda one: one.order).order):
        choice = waiting.pop(0)
        question = choice.question
        on_progress(f"simulating {question.layout}")
        try:
            plan = find_capacity(question, choice.plan, _SEEDS, _DURATION_S, _FACTORS).plan
        except ValueError as error:
            refused.append(Refused(question.device.name, question.tensor_parallel, question.dtype, str(error)))
        else:
            done.append(replace(choice, plan=plan, simulated=True))
    return sorted([*done, *waiting], key=lambda choice: choice.order)


def pareto(choices: Sequence[Choice]) -> list[Choice]:
    """The choices that no other beats both in cost and in devices needed; without prices, those of fewest devices.

    Args:
        choices: to compare.
    """
    priced = [choice for choice in choices if choice.usd_per_million is not None] or list(choices)
    front, fewest = [], math.inf
    for choice in sorted(priced, key=lambda choice: choice.order):
        if choice.devices < fewest:
            front.append(choice)
            fewest = choice.devices
    return front


def _is_measured(device: DeviceSpec, model: ModelSpec, count: int, kind: str, engine: str | None) -> bool:
    try:
        return find_latency(device, model, count, kind, engine).provenance.startswith("measured")
    except ValueError:
        return False
