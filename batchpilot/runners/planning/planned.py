"""A planning question as a user asks it, its analytic answer, and the answer held against simulation."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass, replace
from functools import cached_property
from itertools import pairwise
from pathlib import Path
from typing import Any

import numpy as np

from batchpilot.configs.catalogue import DeviceSpec, ModelSpec
from batchpilot.configs.image_spec import VisionSpec
from batchpilot.core.limits import Limits
from batchpilot.core.slo import SLO
from batchpilot.engines import MemoryModel, SimulationResult, memory_model, simulate
from batchpilot.envs.scenarios import tower_of, tower_weight
from batchpilot.latency.model.parameter_file import ParameterFile, read_parameters
from batchpilot.latency.model.registry import find_latency
from batchpilot.latency.model.roofline import LatencyEstimate
from batchpilot.latency.model.vision_tower import VisionTower
from batchpilot.latency.planning.attainment import Service
from batchpilot.latency.planning.capacity import MAX_STEP_TOKENS
from batchpilot.latency.planning.demand import Demand
from batchpilot.latency.planning.planner import Plan, plan, planned_service
from batchpilot.runners.planning.loads import Draw
from batchpilot.runners.planning.shared import demand_beside_cache, demand_with_images, in_their_order
from batchpilot.runners.stated import promise_text
from batchpilot.workloads import RequestTable, poisson

STEP_NOISE = 0.05
ESTIMATE_ERROR = 0.10
"""What the simulated server suffers, as in the catalogued scenarios: noisy steps, and an estimate that is off."""

FACTORS = (0.7, 0.85, 1.0, 1.1, 1.2, 1.35)
"""Rates that are simulated, relative to the planned one."""

_DEMAND_REQUESTS = 512
_LEAST_REQUESTS = 400
_LONGEST_S = 3600.0
_DEMAND_STREAM, _ARRIVAL_STREAM, _ESTIMATE_STREAM = 21, 22, 23


@dataclass(frozen=True, eq=False)
class Question:
    """What is served on what, and what was promised.

    Attributes:
        device: one of `tensor_parallel` alike.
        model: the model.
        tensor_parallel: devices that share the model; together they are one engine.
        dtype: type the weights are stored in.
        workload: what tables call the mix of requests.
        draw: draws from it.
        slo: targets.
        attainment: share of the requests to be served within both.
        kv_dtype: type the KV cache is kept in, None for what the model asks for.
        parameters: file of the step latency; None for what the catalogue knows.
        known: the step latency where there is no file; None for the best that the catalogue knows.
        shared: requests in their order, where it matters to what a prefix cache or a feature cache finds; else None.
        prefix_cache: whether the engine has a prefix cache; then with `shared`.
        vision: what encodes the images of `shared`, and what is kept; None for an encoding that costs nothing.
    """

    device: DeviceSpec
    model: ModelSpec
    tensor_parallel: int
    dtype: str
    workload: str
    draw: Draw
    slo: SLO
    attainment: float
    kv_dtype: str | None = None
    parameters: Path | None = None
    known: LatencyEstimate | None = None
    shared: RequestTable | None = None
    prefix_cache: bool = False
    vision: VisionSpec | None = None

    @cached_property
    def measured(self) -> ParameterFile | None:
        """What the parameter file says."""
        if self.parameters is None:
            return None
        read = read_parameters(self.parameters)
        read.check(self.device, self.model, self.tensor_parallel)
        return read

    @property
    def front_ms(self) -> float:
        """From a client to the engine and back, part of each TTFT."""
        return 0.0 if self.measured is None else self.measured.front_ms

    @cached_property
    def latency(self) -> LatencyEstimate:
        """The step latency: the file's, else the best that is known."""
        if self.measured is not None:
            return self.measured.estimate
        return self.known or find_latency(self.device, self.model, self.tensor_parallel, self.dtype)

    @cached_property
    def memory(self) -> MemoryModel:
        """The division of one device's memory."""
        return self.memory_in(self.dtype)

    def memory_in(self, dtype: str) -> MemoryModel:
        """The division of one device's memory with weights of some type.

        Args:
            dtype: of the weights.

        Raises:
            ValueError: the model, with what encodes its images, does not fit.
        """
        held = tower_weight(self.vision)
        return memory_model(
            self.device, self.model, self.tensor_parallel, dtype, kv_dtype=self.kv_dtype, tower_bytes=held
        )

    @cached_property
    def max_step_tokens(self) -> int:
        """Most tokens of a step whose activations fit beside weights and KV cache."""
        free_mb = self.memory.total_mb - self.memory.used_mb(self.memory.kv_capacity_tokens)
        return max(1, min(MAX_STEP_TOKENS, int(free_mb / self.memory.activation_mb_per_token)))

    @cached_property
    def demand(self) -> Demand:
        """A few hundred requests that stand for the mix; the same ones every time."""
        if self.shared is not None:
            if self.prefix_cache:
                return demand_beside_cache(self.shared, self.latency.parameters, self.memory, self.tower)
            return demand_with_images(self.shared, self.tower)
        prompt, output = self.draw(_DEMAND_REQUESTS, np.random.default_rng(_DEMAND_STREAM))
        return Demand(prompt.astype(np.float64), output.astype(np.float64))

    @property
    def tower(self) -> VisionTower:
        """What encodes images on the device."""
        return tower_of(self.vision, self.device)

    @property
    def image_share(self) -> float:
        """Share of the requests that have an image."""
        images = None if self.shared is None else self.shared.images
        return 0.0 if images is None else float(images.shown.mean())

    def stated(self) -> dict[str, Any]:
        """What was asked: promise, load, device, model, and where the latency comes from."""
        return {
            "promise": f"{self.attainment:.0%} within {promise_text(self.slo)}",
            "load": self.workload,
            "device": self.device.name,
            "tensor_parallel": self.tensor_parallel,
            "model": self.model.name,
            "dtype": self.dtype,
            "latency": self.latency.provenance,
            **({"prefix_hit_rate": self.demand.prefix_hit_rate} if self.prefix_cache else {}),
            **self._images_stated(),
        }

    def _images_stated(self) -> dict[str, Any]:
        if not self.image_share:
            return {}
        tower = None if self.vision is None else self.vision.tower or "as given"
        return {"image_share": self.image_share, "tower": tower, "encode_ms": float(self.demand.encode_ms.mean())}

    def plan(self, slowdown: float = 1.0) -> Plan:
        """The analytic answer.

        Args:
            slowdown: as if every step took so many times as long as is known.

        Raises:
            ValueError: no rate is held; the message says why.
        """
        if self.front_ms >= self.slo.ttft_ms:
            raise ValueError(
                f"the way to the engine and back alone takes {self.front_ms:g} ms ({self.parameters}); "
                f"a TTFT of {self.slo.ttft_ms:g} ms cannot be promised"
            )
        chosen = plan(
            self.latency.parameters.scaled(slowdown),
            self.demand,
            replace(self.slo, ttft_ms=self.slo.ttft_ms - self.front_ms),
            self.memory.kv_capacity_tokens,
            attainment=self.attainment,
            max_step_tokens=self.max_step_tokens,
        )
        return replace(chosen, slo=self.slo)

    def service(self, chosen: Plan) -> Service:
        """The engine under a plan's limits, for asking about other rates.

        Args:
            chosen: the plan.
        """
        return planned_service(self.latency.parameters, self.demand, chosen, self.max_step_tokens)

    def simulate(self, limits: Limits, rate_per_s: float, seed: int, duration_s: float) -> SimulationResult:
        """Poisson arrivals at a rate, served under limits until every request has ended.

        The server's own latency estimate is off by 10 % in each parameter; its steps vary by 5 %, or as was measured.

        Args:
            limits: in force throughout.
            rate_per_s: requests per second.
            seed: of arrivals, lengths, noise and the estimate's error.
            duration_s: how long requests arrive; longer where they would be few, up to an hour.
        """
        rng = np.random.default_rng([seed, _ARRIVAL_STREAM])
        lasting_s = min(max(duration_s, _LEAST_REQUESTS / rate_per_s), max(duration_s, _LONGEST_S))
        arrival_ms = poisson(rate_per_s, 1000.0 * lasting_s, rng)
        latency = self.latency.parameters
        noise = None if self.measured is None else self.measured.noise
        if self.shared is None:
            requests = RequestTable.from_arrays(arrival_ms, *self.draw(len(arrival_ms), rng), slos=self.slo)
        else:
            requests = in_their_order(self.shared, arrival_ms, int(rng.integers(len(self.shared))))
        return simulate(
            requests.with_slos(self.slo),
            latency,
            limits,
            memory=self.memory,
            max_model_len=self.model.max_model_len,
            noise=STEP_NOISE if noise is None else noise,
            front_ms=self.front_ms,
            estimate=latency.perturbed(np.random.default_rng([seed, _ESTIMATE_STREAM]), ESTIMATE_ERROR),
            prefix_cache=self.prefix_cache,
            vision=self.tower,
            seed=seed,
        )


@dataclass(frozen=True, slots=True)
class Simulated:
    """What simulation says of a rate, means over seeds.

    Attributes:
        rate_per_s: requests per second.
        attainment: share of the requests served within SLO.
        worst: the same of the worst seed.
        goodput_fraction: share of the offered output tokens served within SLO.
        goodput_tokens_per_s: these per second.
        ttft_p95_ms: of the requests that got a first token.
        tpot_p95_ms: of the requests that finished.
        batch_size: mean requests in a step.
        step_ms: mean step.
        kv_fraction: mean share of the KV cache in use.
        refused: share of the requests that was refused.
        prefix_hit_rate: share of the prompt tokens let in that the prefix cache had.
        image_hit_rate: share of the images let in that need not be encoded, 0 without any.
    """

    rate_per_s: float
    attainment: float
    worst: float
    goodput_fraction: float
    goodput_tokens_per_s: float
    ttft_p95_ms: float
    tpot_p95_ms: float
    batch_size: float
    step_ms: float
    kv_fraction: float
    refused: float
    prefix_hit_rate: float = 0.0
    image_hit_rate: float = 0.0


def simulated(
    question: Question, limits: Limits, rate_per_s: float, seeds: Sequence[int], duration_s: float
) -> Simulated:
    """Ask the simulation about one rate.

    Args:
        question: what is served.
        limits: in force throughout.
        rate_per_s: requests per second, > 0.
        seeds: one run each.
        duration_s: how long requests arrive.
    """
    runs = [_figures(question.simulate(limits, rate_per_s, seed, duration_s)) for seed in seeds]
    means = dict(zip(runs[0], np.mean([list(run.values()) for run in runs], axis=0).tolist(), strict=True))
    return Simulated(rate_per_s=rate_per_s, worst=min(run["attainment"] for run in runs), **means)


def held_in_simulation(curve: Sequence[Simulated], attainment: float) -> float | None:
    """The rate at which a simulated curve crosses the wanted attainment, straight lines between its points.

    Args:
        curve: by ascending rate.
        attainment: the share wanted.

    Returns:
        Requests per second; None where the curve lies below it from the start, infinity where it never falls below.
    """
    if curve[0].attainment < attainment:
        return None
    for before, after in pairwise(curve):
        if after.attainment < attainment:
            part = (before.attainment - attainment) / (before.attainment - after.attainment)
            return before.rate_per_s + part * (after.rate_per_s - before.rate_per_s)
    return math.inf


def _figures(result: SimulationResult) -> dict[str, float]:
    windows = [window for window in result.windows if window.steps]
    steps = sum(window.steps for window in windows)
    step_ms = sum(window.busy_ms for window in windows) / max(steps, 1)
    batch = sum(window.batch_size_mean * window.steps for window in windows) / max(steps, 1)
    kv = sum(window.kv_used_fraction * window.duration_ms for window in result.windows)
    refused: dict[str, Any] = {reason: result.count(reason) for reason in ("refused_on_arrival", "refused_by_guard")}
    return {
        "attainment": result.slo_attainment,
        "goodput_fraction": result.goodput_fraction,
        "goodput_tokens_per_s": result.goodput_tokens_per_s,
        "ttft_p95_ms": result.percentile_ms("ttft_ms", 95),
        "tpot_p95_ms": result.percentile_ms("tpot_ms", 95),
        "batch_size": batch,
        "step_ms": step_ms,
        "kv_fraction": kv / result.elapsed_ms if result.elapsed_ms > 0 else 0.0,
        "refused": sum(refused.values()) / max(len(result.requests), 1),
        "prefix_hit_rate": result.prefix_hit_rate,
        "image_hit_rate": 0.0 if math.isnan(result.image_hit_rate) else result.image_hit_rate,
    }
