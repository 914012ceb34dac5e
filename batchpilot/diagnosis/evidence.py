"""What a server, or a simulation, shows of itself: the one form that every diagnosis reads. NaN stands for unknown."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field

from batchpilot.configs.catalogue import DeviceSpec, ModelSpec
from batchpilot.core.slo import SLO
from batchpilot.latency.model.intensity import Intensity, step_intensity

PRESSED_WAITING = 0.5
"""Requests that wait, on average over an interval, from which on it counts as pressed."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Interval:
    """What was so between two looks.

    Attributes:
        seconds: its length.
        running: mean requests in the batch.
        waiting: mean requests in the queue.
        kv_used: share of the KV cache in use, 0-1.
        steps: engine steps.
        tokens_per_step: mean tokens computed in a step.
        context_tokens: mean tokens that attention reads in a step.
        step_ms: mean step.
        busy: share of the time within steps, 0-1.
        ended: requests that ended, in whatever way.
        refused: requests that were refused.
        failed: requests that failed.
        preempted: requests put back into the queue for want of KV blocks.
        memory_mb: of the server's process, or of its device.
    """

    seconds: float = math.nan
    running: float = math.nan
    waiting: float = math.nan
    kv_used: float = math.nan
    steps: float = math.nan
    tokens_per_step: float = math.nan
    context_tokens: float = math.nan
    step_ms: float = math.nan
    busy: float = math.nan
    ended: float = math.nan
    refused: float = math.nan
    failed: float = math.nan
    preempted: float = math.nan
    memory_mb: float = math.nan

    @property
    def pressed(self) -> bool:
        """Whether somebody wanted what was not there."""
        return self.waiting >= PRESSED_WAITING or self.refused > 0 or self.preempted > 0


@dataclass(frozen=True, slots=True)
class Hardware:
    """What the server runs on.

    Attributes:
        device: one of `tensor_parallel` alike.
        model: that is served.
        tensor_parallel: devices that share it.
        dtype: of the weights, None for the published one.
    """

    device: DeviceSpec
    model: ModelSpec
    tensor_parallel: int = 1
    dtype: str | None = None


@dataclass(frozen=True, slots=True, kw_only=True)
class Evidence:
    """Everything that a diagnosis rests on.

    Attributes:
        source: who tells it.
        intervals: looks, in order of time.
        limits: `batch_size`, `token_budget`, `max_queued_tokens` in force, where known.
        quantiles: by name ("ttft_ms", "tpot_ms", "e2e_ms", "prompt_tokens"), the value at 50, 95 and 99 %.
        ended: requests by how they ended: "stop", "length", "aborted", "failed", "refused".
        slo: the promise.
        hardware: None where nobody says.
    """

    source: str
    intervals: Sequence[Interval]
    limits: Mapping[str, float] = field(default_factory=dict)
    quantiles: Mapping[str, Mapping[int, float]] = field(default_factory=dict)
    ended: Mapping[str, float] = field(default_factory=dict)
    slo: SLO = field(default_factory=SLO)
    hardware: Hardware | None = None

    def limit(self, name: str) -> float:
        """A limit, infinity where it is not known or off.

        Args:
            name: a field of `Limits`.
        """
        return self.limits.get(name, math.inf)

    def quantile(self, name: str, percent: int) -> float:
        """A quantile, NaN where it is not told.

        Args:
            name: see `quantiles`.
            percent: 50, 95 or 99.
        """
        return self.quantiles.get(name, {}).get(percent, math.nan)

    @property
    def pressed(self) -> Sequence[Interval]:
        """The intervals in which somebody wanted what was not there; all where there is none."""
        return [one for one in self.intervals if one.pressed] or self.intervals

    def mean(self, name: str, *, of: Sequence[Interval] | None = None) -> float:
        """A figure over intervals, weighted by their length, or by their steps for what is told a step.

        Args:
            name: a field of `Interval`.
            of: which; those that were pressed unless given.
        """
        weight = "steps" if name in ("tokens_per_step", "context_tokens", "step_ms") else "seconds"
        chosen = self.pressed if of is None else of
        known: list[tuple[float, float]] = [
            (getattr(one, name), getattr(one, weight)) for one in chosen if not math.isnan(getattr(one, name))
        ]
        weights = [1.0 if math.isnan(weight) else weight for _, weight in known]
        total = sum(weights)
        if not total:
            return sum(value for value, _ in known) / len(known) if known else math.nan
        return sum(value * weight for (value, _), weight in zip(known, weights, strict=True)) / total

    def total(self, name: str) -> float:
        """A count over all intervals, NaN where none tells it.

        Args:
            name: a field of `Interval` that counts.
        """
        known: list[float] = [getattr(one, name) for one in self.intervals if not math.isnan(getattr(one, name))]
        return sum(known) if known else math.nan

    @property
    def refused_share(self) -> float:
        """Refused requests over those that ended; 0 where nobody tells of any."""
        ended, refused = self.total("ended"), self.total("refused")
        return refused / ended if ended > 0 and refused > 0 else 0.0

    @property
    def lateness(self) -> float:
        """How many times its target the 95th percentile of TTFT or TPOT takes, the worse of both; NaN if unknown."""
        told = (
            self.quantile("ttft_ms", 95) / self.slo.ttft_ms,
            self.quantile("tpot_ms", 95) / self.slo.tpot_ms,
        )
        return max((ratio for ratio in told if not math.isnan(ratio)), default=math.nan)

    @property
    def step(self) -> Intensity | None:
        """What the mean pressed step asked of the device, None where step or hardware are not known."""
        tokens, context, step_ms = (self.mean(name) for name in ("tokens_per_step", "context_tokens", "step_ms"))
        if self.hardware is None or not (tokens > 0 and step_ms > 0):
            return None
        on = self.hardware
        return step_intensity(
            on.device,
            on.model,
            tokens,
            0.0 if math.isnan(context) else context,
            step_ms,
            tensor_parallel=on.tensor_parallel,
            dtype=on.dtype,
        )
