"""What became of a fleet's requests and replicas, and what it cost."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np
from numpy.typing import ArrayLike, NDArray

from batchpilot.engines.scheduler.state import LENGTH
from batchpilot.engines.simulated.result import SimulationResult
from batchpilot.fleet.hearing import Found
from batchpilot.fleet.replicas import Replicas, Span
from batchpilot.workloads.table import RequestTable


@dataclass(frozen=True, slots=True)
class Moment:
    """The fleet at the end of a window.

    Attributes:
        now_ms: when.
        serving: replicas that take requests.
        existing: replicas that are paid for: starting and draining ones too.
        queued: requests that wait.
        running: requests that run.
    """

    now_ms: float
    serving: int
    existing: int
    queued: int
    running: int


@dataclass(frozen=True, eq=False)
class FleetResult:
    """A whole run.

    Attributes:
        served: every request, as one engine's result tells it; it has no windows.
        replica: which replica answered each request, -1 for none or one that is gone, shape (n,).
        rate_limited: whether a request was refused by its user's token bucket, shape (n,).
        spans: lives of the replicas.
        moments: the timeline, where anybody decided.
        retried: times that a request had to look for another replica.
        usd: what the devices cost, NaN where a price is missing.
        device_hours: devices times hours.
        joules: that the devices drew by the energy model, NaN where a power is missing.
        handover_ms: from a request's first token until its KV had come to the replica that decodes; NaN where it was
            not handed over, shape (n,).
        moved_tokens: prompt tokens of which KV was moved for that, those aside that the replica that decodes had in its
            prefix cache, shape (n,).
        found: what each replica found in its prefix cache, and of images among the features that it kept, those that
            are gone included; None where that is not told.
    """

    served: SimulationResult
    replica: NDArray[np.int64]
    rate_limited: NDArray[np.bool_]
    spans: Sequence[Span]
    moments: Sequence[Moment]
    retried: int
    usd: float
    device_hours: float
    joules: float = math.nan
    handover_ms: NDArray[np.float64] = field(default_factory=lambda: np.zeros(0))
    moved_tokens: NDArray[np.int64] = field(default_factory=lambda: np.zeros(0, np.int64))
    found: Found | None = None

    def __repr__(self) -> str:
        """A summary in a line."""
        return f"<FleetResult: {self.replica_hours:,.2f} replica hours, {self.usd:,.2f} USD; {self.served!r}>"

    @property
    def joules_per_token(self) -> float:
        """Energy of an output token served within SLO, NaN without a power or such a token."""
        good = float(self.served.generated_tokens[self.served.slo_met].sum())
        return self.joules / good if good else math.nan

    @property
    def replica_hours(self) -> float:
        """Replicas times hours, starting and draining ones included."""
        return sum(span.until_ms - span.from_ms for span in self.spans) / 3.6e6

    @property
    def usd_per_million_tokens(self) -> float:
        """Cost of a million output tokens served within SLO, NaN without a price or such a token."""
        good = float(self.served.generated_tokens[self.served.slo_met].sum())
        return 1e6 * self.usd / good if good else math.nan

    @property
    def prefix_hit_rate(self) -> float:
        """Share of the prompt tokens let in that were found in a replica's prefix cache; NaN when nobody was let in."""
        return math.nan if self.found is None else _share(self.found.cached_tokens, self.found.prompt_tokens)

    @property
    def image_hit_rate(self) -> float:
        """Share of the images let in that need not be encoded; NaN when none was let in."""
        return math.nan if self.found is None else _share(self.found.image_hits, self.found.images)

    def prefix_hit_rates(self) -> NDArray[np.float64]:
        """`prefix_hit_rate` of each replica, NaN of one that let nobody in, shape (replicas,)."""
        if self.found is None:
            return np.zeros(0)
        each = zip(self.found.cached_tokens, self.found.prompt_tokens, strict=True)
        return np.array([_share(cached, prompt) for cached, prompt in each])

    def by_replica(self) -> NDArray[np.int64]:
        """Requests that each replica answered, shape (replicas,)."""
        return np.bincount(self.replica[self.replica >= 0])

    def summary(self) -> dict[str, Any]:
        """The figures that tables print."""
        served = self.served
        handed = self.handover_ms[~np.isnan(self.handover_ms)]
        return {
            "requests": len(served.requests),
            "goodput_fraction": served.goodput_fraction,
            "slo_attainment": served.slo_attainment,
            **{f"ttft_p{q}_ms": served.percentile_ms("ttft_ms", q) for q in (50, 95, 99)},
            **{f"tpot_p{q}_ms": served.percentile_ms("tpot_ms", q) for q in (50, 95, 99)},
            "failed": served.count("failed"),
            "refused_fraction": served.refused_fraction,
            "rate_limited": int(self.rate_limited.sum()),
            "retried": self.retried,
            "handover_p99_ms": float(np.percentile(handed, 99)) if len(handed) else math.nan,
            "moved_tokens": int(self.moved_tokens.sum()),
            "prefix_hit_rate": self.prefix_hit_rate,
            **({} if served.requests.images is None else {"image_hit_rate": self.image_hit_rate}),
            "replica_hours": self.replica_hours,
            "device_hours": self.device_hours,
            "usd": self.usd,
            "usd_per_million_tokens": self.usd_per_million_tokens,
            "joules": self.joules,
            "joules_per_token": self.joules_per_token,
        }


def _share(part: ArrayLike, whole: ArrayLike) -> float:
    total = float(np.sum(whole))
    return float(np.sum(part)) / total if total else math.nan


def result_of(
    requests: RequestTable,
    records: NDArray[np.void],
    where: NDArray[np.int64],
    rate_limited: NDArray[np.bool_],
    replicas: Replicas,
    moments: Sequence[Moment],
    *,
    retried: int,
    now_ms: float,
    handover_ms: NDArray[np.float64],
    moved_tokens: NDArray[np.int64],
) -> FleetResult:
    """The result from the scheduler's records.

    Args:
        requests: as given.
        records: of `REQUEST`, final, shape (n,).
        where: replica, place and fate of each request, shape (n, 3).
        rate_limited: see `FleetResult`.
        replicas: the replicas.
        moments: the timeline.
        retried: see `FleetResult`.
        now_ms: fleet time.
        handover_ms: see `FleetResult`.
        moved_tokens: likewise.
    """
    ends = records["finish_ms"][np.isfinite(records["finish_ms"])]
    end_ms = max(float(ends.max(initial=0.0)), now_ms)
    ttft = records["first_ms"] - requests.arrival_ms
    generated = records["generated"]
    with np.errstate(divide="ignore", invalid="ignore"):
        tpot = np.where(generated > 1, (records["finish_ms"] - records["first_ms"]) / (generated - 1), math.nan)
    in_time = (ttft <= requests.ttft_target_ms) & ((generated < 2) | (tpot <= requests.tpot_target_ms))
    clocks, handed = replicas.state.clock, bool(np.isfinite(handover_ms).any())
    served = SimulationResult(
        requests=requests,
        ttft_ms=ttft,
        e2e_ms=records["finish_ms"] - requests.arrival_ms,
        tpot_ms=tpot,
        generated_tokens=generated,
        finish_code=records["reason"],
        slo_met=(records["reason"] == LENGTH) & in_time,
        windows=(),
        elapsed_ms=end_ms,
        computed_tokens=int(clocks["computed_tokens"].sum()),
        useful_tokens=int(clocks["useful_tokens"].sum()),
        cached_tokens=None if handed else np.where(records["admitted"] > 0, records["cached"], 0).astype(np.int64),
    )
    spans = [Span(s.replica, s.spec, s.from_ms, s.ready_ms, min(s.until_ms, end_ms)) for s in replicas.spans]
    usd = device_hours = joules = 0.0
    for span in spans:
        spec = replicas.specs[span.spec]
        hours = spec.devices * max(span.until_ms - span.from_ms, 0.0) / 3.6e6
        device_hours += hours
        usd += hours * (math.nan if spec.usd_per_device_hour is None else spec.usd_per_device_hour)
    for kind, spec in enumerate(replicas.specs):
        lived_s = sum(max(span.until_ms - span.from_ms, 0.0) for span in spans if span.spec == kind) / 1000.0
        if lived_s:
            joules += math.nan if spec.energy is None else spec.energy.joules(replicas.work(kind), lived_s)
    told = (rate_limited, spans, tuple(moments), retried, usd, device_hours, joules)
    return FleetResult(served, where[:, 0].copy(), *told, handover_ms, moved_tokens, replicas.found())
