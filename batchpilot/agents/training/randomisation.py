"""Domain randomisation: scenarios drawn from ranges, so that one policy learns devices, loads and promises alike.

Lengths are lognormal, uniform or fixed, never those of a recorded trace, so that a recording stays unseen. Promises are
drawn in absolute terms and raised to what the device can keep when it serves alone. Times in s unless named otherwise.
"""

from __future__ import annotations

import copy
import math
from collections.abc import Sequence
from functools import cache
from typing import Annotated, Any, Literal

import numpy as np
from pydantic import Field, model_validator

from batchpilot.configs.catalogue import device, model
from batchpilot.configs.scenario import Device, DeviceSpread, Model, Scenario
from batchpilot.configs.strict import StrictModel, problem
from batchpilot.engines.memory import memory_model
from batchpilot.envs.scenarios import another_device, capacity_per_s
from batchpilot.latency.model.registry import find_latency
from batchpilot.latency.model.saturation import SaturationParameters

Dtype = Literal["fp16", "int8", "int4"]

_LEAST_KV_TOKENS = 4000
_LEAST_DURATION_S, _LEAST_REQUESTS = 40.0, 40
_ATTEMPTS = 200
_ARRIVALS = ("poisson", "gamma", "mmpp", "diurnal")
_PATIENCE = 5.0
"""By how much the promise of the class `batch` is looser than that of `interactive`."""


class Range(StrictModel):
    """Values from `low` to `high`, drawn evenly on a logarithmic scale unless `low` is 0, then evenly."""

    low: Annotated[float, Field(ge=0)]
    high: Annotated[float, Field(ge=0)]

    @model_validator(mode="after")
    def _in_order(self) -> Range:
        if self.low > self.high:
            raise problem(f"low {self.low:g} is above high {self.high:g}; lower one or raise the other", "low")
        return self

    def draw(self, rng: np.random.Generator) -> float:
        """One value.

        Args:
            rng: the source of randomness.
        """
        if self.low == 0:
            return float(rng.uniform(0.0, self.high))
        return float(math.exp(rng.uniform(math.log(self.low), math.log(self.high))))


class Randomisation(StrictModel):
    """What scenarios are drawn from.

    Attributes:
        devices: catalogue names; every layout of a model that leaves room for a KV cache may be drawn.
        models: catalogue names.
        tensor_parallel: devices that share a model.
        dtypes: how weights are stored.
        device_spread: standard deviation of the logarithm of the factors by which the times of a drawn device are off
            those of the named one, so that what is learned is not those devices' but holds of any; 0 for the named.
        load: arrival rate as a multiple of the device's estimated capacity, anew in each phase.
        duration_s: length of a scenario, one to three phases together.
        decision_interval_ms: one of these.
        most_requests: expected number of requests is held below this by shorter scenarios.
        prompt_tokens: median prompt length.
        output_tokens: median output length.
        length_sigma: standard deviation of the logarithm of lengths.
        ttft_ms: TTFT target of the class `interactive`.
        tpot_ms: its TPOT target.
        tpot_headroom: the TPOT target is at least this multiple of a decode step of one request.
        patient_share: chance that part of the requests are of the class `batch`, five times as patient.
        noise: standard deviation of the logarithm of step time.
        estimate_error: relative error of the latency estimate.
        drift_share: chance that the device slows down or speeds up on the way, or is not what the estimate says from
            the start.
        slowdown: factor on step time while it drifts.
    """

    devices: list[Device] = Field(min_length=1)
    models: list[Model] = Field(min_length=1)
    tensor_parallel: list[int] = Field([1, 2, 4], min_length=1)
    dtypes: list[Dtype] = Field(["fp16", "int8", "int4"], min_length=1)
    device_spread: Annotated[float, Field(ge=0)] = 0.5
    load: Range = Range(low=0.3, high=2.5)
    duration_s: Range = Range(low=60.0, high=240.0)
    decision_interval_ms: list[float] = Field([500.0, 1000.0, 1000.0], min_length=1)
    most_requests: Annotated[int, Field(ge=1)] = 2500
    prompt_tokens: Range = Range(low=60.0, high=2500.0)
    output_tokens: Range = Range(low=16.0, high=500.0)
    length_sigma: Range = Range(low=0.3, high=1.2)
    ttft_ms: Range = Range(low=500.0, high=8000.0)
    tpot_ms: Range = Range(low=30.0, high=250.0)
    tpot_headroom: Range = Range(low=1.3, high=4.0)
    patient_share: Annotated[float, Field(ge=0, le=1)] = 0.25
    noise: Range = Range(low=0.0, high=0.15)
    estimate_error: Range = Range(low=0.0, high=0.3)
    drift_share: Annotated[float, Field(ge=0, le=1)] = 0.4
    slowdown: Range = Range(low=0.6, high=2.0)


def draw_scenarios(ranges: Randomisation, count: int, rng: np.random.Generator, prefix: str) -> list[Scenario]:
    """Draw scenarios.

    Args:
        ranges: what from.
        count: how many.
        rng: the only source of randomness.
        prefix: their names are PREFIX-0, PREFIX-1, ...

    Raises:
        ValueError: no model fits on any device, or the ranges leave nothing to serve.
    """
    return [_draw(ranges, rng, f"{prefix}-{number}") for number in range(count)]


class _Hardware:
    """One layout of a model on a device."""

    def __init__(self, device_name: str, model_name: str, tensor_parallel: int, dtype: Dtype) -> None:
        self.names = {"device": device_name, "model": model_name, "tensor_parallel": tensor_parallel, "dtype": dtype}
        chip, served = device(device_name), model(model_name)
        self.kv_tokens = memory_model(chip, served, tensor_parallel, dtype).kv_capacity_tokens
        self.estimate = find_latency(chip, served, tensor_parallel, dtype)
        self.spread: DeviceSpread | None = None
        self.max_model_len = min(served.max_model_len, self.kv_tokens)

    @property
    def latency(self) -> SaturationParameters:
        """Of its steps."""
        return self.estimate.parameters

    def another(self, spread: DeviceSpread) -> _Hardware:
        """The same layout on a device near this one."""
        other = copy.copy(self)
        other.spread, other.estimate = spread, another_device(self.estimate, spread)
        return other


@cache
def _layouts(
    devices: tuple[str, ...], models: tuple[str, ...], parallel: tuple[int, ...], dtypes: tuple[Dtype, ...]
) -> tuple[tuple[_Hardware, ...], ...]:
    """Layouts with room for a KV cache, by device, so that devices are drawn evenly however many models they hold."""
    found = []
    for device_name in devices:
        layouts = []
        for model_name in models:
            for count in parallel:
                for dtype in dtypes:
                    try:
                        layout = _Hardware(device_name, model_name, count, dtype)
                    except ValueError:  # does not fit, or cannot be shared so
                        continue
                    if layout.kv_tokens >= _LEAST_KV_TOKENS:
                        layouts.append(layout)
        if layouts:
            found.append(tuple(layouts))
    if not found:
        raise ValueError(f"none of the models {', '.join(models)} fits on any of {', '.join(devices)}")
    return tuple(found)


def _draw(ranges: Randomisation, rng: np.random.Generator, name: str) -> Scenario:
    layouts = _layouts(tuple(ranges.devices), tuple(ranges.models), tuple(ranges.tensor_parallel), tuple(ranges.dtypes))
    for _ in range(_ATTEMPTS):
        hardware = _choose(rng, _choose(rng, layouts))
        if ranges.device_spread:
            hardware = hardware.another(DeviceSpread(spread=ranges.device_spread, seed=int(rng.integers(2**31))))
        data = _data(ranges, hardware, rng, name)
        if data is not None:
            return Scenario.model_validate(data)
    raise ValueError(
        f"{_ATTEMPTS} draws gave no scenario of at least {_LEAST_DURATION_S:g} s and {_LEAST_REQUESTS} requests and at "
        f"most {ranges.most_requests}; widen duration_s or raise most_requests"
    )


def _data(ranges: Randomisation, hardware: _Hardware, rng: np.random.Generator, name: str) -> dict[str, Any] | None:
    """A scenario as plain data; None where this hardware would see too many requests, or too few."""
    lengths = [_lengths(ranges, hardware, rng)]
    loads = [ranges.load.draw(rng)]
    shift = str(_choose(rng, ("none", "load", "lengths", "mix")))
    phases = 1 if shift == "none" else int(_choose(rng, (2, 3)))
    for _ in range(phases - 1):
        lengths.append(_lengths(ranges, hardware, rng) if shift == "lengths" else lengths[0])
        loads.append(ranges.load.draw(rng) if shift == "load" else loads[0])
    rates_per_s = [
        load * capacity_per_s(hardware.latency, hardware.kv_tokens, *_means(length))
        for load, length in zip(loads, lengths, strict=True)
    ]
    duration_s = min(ranges.duration_s.draw(rng), ranges.most_requests / max(rates_per_s))
    if duration_s < _LEAST_DURATION_S or duration_s * min(rates_per_s) < _LEAST_REQUESTS:
        return None
    patient = rng.random() < ranges.patient_share
    mixes = [_mix(patient, rng)]
    mixes += [_mix(patient, rng) if shift == "mix" else mixes[0] for _ in range(phases - 1)]
    arrivals = str(_choose(rng, _ARRIVALS))
    ttft_ms, tpot_ms = _promise(ranges, hardware, lengths, rng)
    return {
        "name": name,
        "description": "Drawn at random for training.",
        "family": _family(shift, arrivals),
        **hardware.names,
        "decision_interval_ms": float(_choose(rng, ranges.decision_interval_ms)),
        "slos": {
            "interactive": {"ttft_ms": ttft_ms, "tpot_ms": tpot_ms},
            "batch": {"ttft_ms": _PATIENCE * ttft_ms, "tpot_ms": _PATIENCE * tpot_ms},
        },
        "workload": {
            "phases": [
                {
                    "duration_s": duration_s / phases,
                    "arrivals": _arrivals(arrivals, load, rng),
                    "lengths": length,
                    "slo_mix": mix,
                }
                for load, length, mix in zip(loads, lengths, mixes, strict=True)
            ]
        },
        "engine": {
            "device_spread": hardware.spread and hardware.spread.model_dump(),
            "noise": ranges.noise.draw(rng),
            "estimate_error": ranges.estimate_error.draw(rng),
            "drift": _drift(ranges, duration_s, rng),
        },
    }


def _lengths(ranges: Randomisation, hardware: _Hardware, rng: np.random.Generator) -> dict[str, Any]:
    """Lognormal lengths that the context and the KV cache hold; small spreads stand for fixed formats."""
    longest = hardware.max_model_len // 2
    columns = {}
    for column, medians in (("prompt_tokens", ranges.prompt_tokens), ("output_tokens", ranges.output_tokens)):
        median = min(medians.draw(rng), 0.5 * longest)
        columns[column] = {"median": median, "sigma": ranges.length_sigma.draw(rng), "min": 1, "max": longest - 1}
    return {"kind": "lognormal", **columns}


def _means(lengths: dict[str, Any]) -> tuple[float, float]:
    """Mean prompt and output tokens, the cut at the longest neglected."""
    prompt, output = (
        min(shape["median"] * math.exp(shape["sigma"] ** 2 / 2), shape["max"])
        for shape in (lengths["prompt_tokens"], lengths["output_tokens"])
    )
    return prompt, output


def _arrivals(kind: str, load: float, rng: np.random.Generator) -> dict[str, Any]:
    match kind:
        case "gamma":
            return {"kind": kind, "load": load, "cv": float(rng.uniform(1.2, 4.0))}
        case "mmpp":
            factors = rng.uniform(0.2, 1.0), rng.uniform(1.5, 4.0)
            states = [{"factor": float(f), "mean_dwell_s": float(rng.uniform(4.0, 30.0))} for f in factors]
            return {"kind": kind, "load": load, "states": states}
        case "diurnal":
            amplitude, period_s = float(rng.uniform(0.3, 0.95)), float(rng.uniform(40.0, 240.0))
            return {"kind": kind, "load": load, "amplitude": amplitude, "period_s": period_s}
        case _:
            return {"kind": kind, "load": load}


def _promise(
    ranges: Randomisation, hardware: _Hardware, lengths: Sequence[dict[str, Any]], rng: np.random.Generator
) -> tuple[float, float]:
    """TTFT and TPOT targets in ms, no tighter than what a request served alone, or beside a few, could be given."""
    prompt, output = (max(means) for means in zip(*map(_means, lengths), strict=True))
    alone_ms = hardware.latency.predict_one(1, 1, prompt + output)
    prefill_ms = hardware.latency.predict_one(1, prompt, prompt)
    tpot_ms = max(ranges.tpot_ms.draw(rng), ranges.tpot_headroom.draw(rng) * alone_ms)
    return max(ranges.ttft_ms.draw(rng), 4.0 * prefill_ms), tpot_ms


def _mix(patient: bool, rng: np.random.Generator) -> dict[str, float]:
    share = float(rng.uniform(0.1, 0.8)) if patient else 0.0
    return {"interactive": 1.0 - share, "batch": share} if patient else {"interactive": 1.0}


def _drift(ranges: Randomisation, duration_s: float, rng: np.random.Generator) -> list[dict[str, Any]]:
    if rng.random() >= ranges.drift_share:
        return []
    start_s = 0.0 if rng.random() < 0.3 else float(rng.uniform(0.1, 0.7)) * duration_s
    end_s = duration_s + 60.0 if rng.random() < 0.5 else start_s + float(rng.uniform(0.2, 0.6)) * duration_s
    return [{"kind": "throttle", "start_s": start_s, "end_s": end_s, "factor": ranges.slowdown.draw(rng)}]


def _family(shift: str, arrivals: str) -> str:
    if shift == "lengths":
        return "prompt-shift"
    if shift == "mix":
        return "slo-shift"
    return {"diurnal": "diurnal", "poisson": "stationary"}.get(arrivals, "bursty")


def _choose(rng: np.random.Generator, options: Sequence[Any]) -> Any:
    return options[int(rng.integers(len(options)))]
