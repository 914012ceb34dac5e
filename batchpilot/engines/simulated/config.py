"""How a simulated engine is configured: everything about it but its requests and limits. Times in ms."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from functools import lru_cache
from typing import Protocol

import numpy as np

from batchpilot.core.limits import DISCIPLINES
from batchpilot.core.names import lookup
from batchpilot.core.speculation import Speculation
from batchpilot.core.tenants import TenantTerms
from batchpilot.engines.scheduler.state import BATCHING_MODES, PREFILL_MODES
from batchpilot.latency.model.saturation import SaturationParameters
from batchpilot.latency.model.vision_tower import VisionTower

UNLIMITED_KV_TOKENS = 2**40
_ESTIMATE_STREAM = 2


class EngineMemory(Protocol):
    """The device memory that the engine accounts for, all in MB (2**20 bytes); `engines.memory.MemoryModel` is one."""

    @property
    def total_mb(self) -> float:
        """The device's memory, 0 for no limit."""

    @property
    def fixed_mb(self) -> float:
        """Weights and workspace."""

    @property
    def kv_mb_per_token(self) -> float:
        """KV cache of one token."""

    @property
    def activation_mb_per_token(self) -> float:
        """Activations of one token computed in a step."""

    @property
    def kv_capacity_tokens(self) -> int:
        """KV tokens that fit."""


@dataclass(frozen=True, slots=True)
class EngineConfig:
    """Everything about a simulated engine but its requests and limits.

    Attributes:
        latency: the true step latency.
        estimate: what `step_target_ms` and `ttft_guard` believe it to be; None for `latency` with every time-like
            parameter off by 10 % (log-normal, drawn from the seed), since a server never knows the truth.
        kv_capacity_tokens: KV tokens that fit, >= 1; None for the memory's, or no bound without one.
        block_size: tokens in a KV block, >= 1.
        max_model_len: longest prompt plus output, None for no bound.
        mode: "continuous" or "static" (padded) batching.
        prefill: "chunked", "whole" or "selective" (prompts from 512 tokens run alone).
        discipline: who is next where the limits do not say, one of `DISCIPLINES`.
        noise: standard deviation of the logarithm of the step-time factor, >= 0.
        front_ms: from a client to the scheduler and back, once a request: part of its TTFT, of no step; 0 for the
            clients of a closed loop.
        drift: (start_ms, true parameters from then on), ascending.
        prefix_cache: share KV blocks of equal prefixes, where the requests tell them; of continuous batching alone.
        vision: what encoding images costs, and how many features are kept. Neither drift nor the error of the estimate
            nor noise touches it.
        memory: device memory; None for no accounting and no out-of-memory failure.
        speculation: how drafts fare where the limits ask for them; which are accepted is drawn from the seed.
        tenants: terms by user; the others' are the ordinary ones, weight 1 and no ceiling.
        seed: of the noise, of what is accepted and of the default estimate.

    Raises:
        ValueError: a value is outside its bound; the message names it.
    """

    latency: SaturationParameters
    estimate: SaturationParameters | None = None
    kv_capacity_tokens: int | None = None
    block_size: int = 16
    max_model_len: int | None = None
    mode: str = "continuous"
    prefill: str = "chunked"
    discipline: str = "fcfs"
    noise: float = 0.0
    front_ms: float = 0.0
    drift: Sequence[tuple[float, SaturationParameters]] = ()
    prefix_cache: bool = False
    vision: VisionTower = field(default_factory=VisionTower)
    memory: EngineMemory | None = None
    speculation: Speculation = field(default_factory=Speculation)
    tenants: Mapping[int, TenantTerms] = field(default_factory=dict)
    seed: int = 0

    def __post_init__(self) -> None:
        lookup(BATCHING_MODES, self.mode, "batching mode")
        lookup(PREFILL_MODES, self.prefill, "prefill mode")
        lookup(DISCIPLINES, self.discipline, "discipline")
        for name in ("kv_capacity_tokens", "block_size", "max_model_len"):
            value = getattr(self, name)
            if value is not None and value < 1:
                raise ValueError(f"{name} is {value}; it must be >= 1")
        if not (math.isfinite(self.noise) and self.noise >= 0):
            raise ValueError(f"noise is {self.noise}; it must be >= 0")
        if not (math.isfinite(self.front_ms) and self.front_ms >= 0):
            raise ValueError(f"front_ms is {self.front_ms}; it must be >= 0 ms")
        if self.prefix_cache and self.mode == "static":
            raise ValueError("prefix_cache is on in mode static; padded batches share no blocks, so choose continuous")
        if self.speculation.drafted and self.mode == "static":
            raise ValueError("speculation.drafted is above 0 in mode static; padded batches draft nothing")
        starts = [start for start, _ in self.drift]
        if starts != sorted(starts):
            raise ValueError(f"drift starts {starts} must ascend")
        if self.capacity_tokens < self.block_size:
            raise ValueError(f"kv_capacity_tokens {self.capacity_tokens} holds no block of {self.block_size} tokens")

    @property
    def capacity_tokens(self) -> int:
        """KV tokens that fit, wherever that is stated."""
        if self.kv_capacity_tokens is not None:
            return int(self.kv_capacity_tokens)
        return self.memory.kv_capacity_tokens if self.memory is not None else UNLIMITED_KV_TOKENS

    def believed_latency(self) -> SaturationParameters:
        """The estimate in use: the one given, or the truth with a 10 % error drawn from the seed."""
        if self.estimate is not None:
            return self.estimate
        return _perturbed(self.latency, self.seed)


@lru_cache(1024)
def _perturbed(latency: SaturationParameters, seed: int) -> SaturationParameters:
    return latency.perturbed(np.random.default_rng([seed, _ESTIMATE_STREAM]), 0.10)
