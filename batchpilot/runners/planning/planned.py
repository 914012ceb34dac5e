"""A planning question as a user asks it, its analytic answer, and a simulation under it."""

from __future__ import annotations

from dataclasses import dataclass, replace
from functools import cached_property
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
from batchpilot.latency.model.pipeline import staged
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
        tensor_parallel: devices that share each layer.
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
        pipeline_parallel: stages that the layers are cut into. An engine has as many batches in flight, and what is
            planned and simulated is one of them; `of_engine` tells of all.
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
    pipeline_parallel: int = 1

    @property
    def layout(self) -> str:
        """The devices of an engine, for people."""
        stages = f" in {self.pipeline_parallel} stages" if self.pipeline_parallel > 1 else ""
        return f"{self.devices} x {self.device.name}{stages}"

    @property
    def unit(self) -> str:
        """What is planned and simulated, for people: an engine, or one of its batches in flight."""
        return "one engine" if self.pipeline_parallel == 1 else f"one of {self.pipeline_parallel} batches in flight"

    @property
    def devices(self) -> int:
        """Devices of an engine."""
        return self.tensor_parallel * self.pipeline_parallel

    @property
    def shared_by(self) -> dict[str, int]:
        """How devices share an engine, as servers are told it; nothing for one device."""
        told = {"tensor_parallel": self.tensor_parallel, "pipeline_parallel": self.pipeline_parallel}
        return {name: count for name, count in told.items() if count > 1}

    def of_engine(self, chosen: Plan) -> Plan:
        """A plan of one batch in flight as that of the engine which has as many as stages.

        Args:
            chosen: of one batch.
        """
        return chosen.together(self.pipeline_parallel)

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
        known = self.known or find_latency(self.device, self.model, self.tensor_parallel, self.dtype)
        if self.pipeline_parallel == 1:
            return known
        told = f"estimated: {self.pipeline_parallel} stages of what was {known.provenance}"
        return LatencyEstimate(staged(known.parameters, self.device, self.model, self.pipeline_parallel), told)

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
            self.device,
            self.model,
            self.tensor_parallel,
            dtype,
            kv_dtype=self.kv_dtype,
            tower_bytes=held,
            pipeline_parallel=self.pipeline_parallel,
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
            **({"pipeline_parallel": self.pipeline_parallel} if self.pipeline_parallel > 1 else {}),
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
