"""What a tuner hears: one completed measurement window, during which one setting was in force."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import asdict, dataclass, fields
from operator import attrgetter
from typing import Any, overload

import numpy as np
from numpy.typing import NDArray

from batchpilot.core.limits import Limits


@dataclass(frozen=True, slots=True, kw_only=True)
class WindowMetrics:
    """Measurements of one window. Times in ms of engine time, counts per window unless said otherwise.

    A window never mixes two settings, and a percentile without a sample is NaN.

    Attributes:
        limits: the limits in force during the whole window.
        start_ms: engine time at which the window began.
        duration_ms: its length; 0 is possible and means nothing was measured.
        busy_ms: time within steps.
        steps: completed steps.
        generated_tokens: output tokens emitted.
        prefill_tokens: prompt tokens computed, recomputation after preemption included.
        arrivals: requests that arrived.
        arrived_prompt_tokens: their prompt tokens.
        completions: requests that finished by length.
        refused_on_arrival: requests refused by `max_queued_tokens`.
        refused_by_guard: requests refused by `ttft_guard`.
        failed_requests: requests that ended by a failure.
        cancelled_requests: requests whose client went away; neither served nor missed.
        preemptions: running requests put back into the queue.
        failures: steps that failed (out of memory, engine error).
        queue: requests waiting at the end of the window.
        queued_tokens: their prompt tokens.
        oldest_wait_ms: age of the longest waiting request at the end, 0 without one.
        running: requests running at the end.
        batch_size_mean: mean requests per step.
        tokens_per_step_mean: mean tokens computed per step.
        context_tokens_mean: mean context tokens read per step.
        step_ms_mean: mean step time.
        step_ms_p95: 95th percentile of step time.
        ttft_ms_p50: median time to first token of the requests whose first token fell in the window.
        ttft_ms_p95: its 95th percentile.
        ttft_ms_p99: its 99th percentile.
        tpot_ms_p50: median time per output token of the requests that finished in the window.
        tpot_ms_p95: its 95th percentile.
        tpot_ms_p99: its 99th percentile.
        slo_attainment: share of the requests that ended in the window (refused and failed ones included) within their
            SLO; NaN when none ended.
        goodput_tokens_per_s: output tokens per second of the requests that finished in the window within their SLO.
        kv_used_fraction: mean share of KV blocks in use.
        utilisation: share of the window within steps, 0-1, as a device counter reports it.
        memory_used_mb: mean device memory in use.
        memory_peak_mb: most device memory in use.
        memory_total_mb: the device's memory, 0 when unknown.
        kv_capacity_tokens: KV tokens that fit.
        peak_tokens_per_s: the engine's estimated peak of generated tokens per second for the window's mix of prompt and
            output tokens, the reference that makes throughput commensurable; 0 when unknown.
        ttft_target_ms: typical TTFT target (`core.slo.typical_target`) of the requests that arrived, infinite where
            none was promised anything; the last known one when none arrived.
        tpot_target_ms: typical TPOT target, likewise.
        admitted_prompt_tokens: prompt tokens of the requests that were let in for the first time.
        cached_prompt_tokens: of these, tokens found in the prefix cache, which need not be computed.
        images: images of the requests that were let in, again after a preemption.
        image_hits: of these, images that need not be encoded: their features were kept, or their KV blocks cached.
        encode_ms: time within steps that was spent on encoding the others.
        drafts: drafts verified, one a request and step.
        drafted_tokens: their tokens.
        accepted_tokens: of these, tokens that stood; each draft gave one token more than that.
    """

    limits: Limits
    start_ms: float = 0.0
    duration_ms: float = 0.0
    busy_ms: float = 0.0
    steps: int = 0
    generated_tokens: int = 0
    prefill_tokens: int = 0
    arrivals: int = 0
    arrived_prompt_tokens: int = 0
    completions: int = 0
    refused_on_arrival: int = 0
    refused_by_guard: int = 0
    failed_requests: int = 0
    cancelled_requests: int = 0
    preemptions: int = 0
    failures: int = 0
    queue: int = 0
    queued_tokens: int = 0
    oldest_wait_ms: float = 0.0
    running: int = 0
    batch_size_mean: float = 0.0
    tokens_per_step_mean: float = 0.0
    context_tokens_mean: float = 0.0
    step_ms_mean: float = math.nan
    step_ms_p95: float = math.nan
    ttft_ms_p50: float = math.nan
    ttft_ms_p95: float = math.nan
    ttft_ms_p99: float = math.nan
    tpot_ms_p50: float = math.nan
    tpot_ms_p95: float = math.nan
    tpot_ms_p99: float = math.nan
    slo_attainment: float = math.nan
    goodput_tokens_per_s: float = 0.0
    kv_used_fraction: float = 0.0
    utilisation: float = 0.0
    memory_used_mb: float = 0.0
    memory_peak_mb: float = 0.0
    memory_total_mb: float = 0.0
    kv_capacity_tokens: int = 0
    peak_tokens_per_s: float = 0.0
    ttft_target_ms: float = math.nan
    tpot_target_ms: float = math.nan
    admitted_prompt_tokens: int = 0
    cached_prompt_tokens: int = 0
    images: int = 0
    image_hits: int = 0
    encode_ms: float = 0.0
    drafts: int = 0
    drafted_tokens: int = 0
    accepted_tokens: int = 0

    @property
    def end_ms(self) -> float:
        """Engine time at which the window ended."""
        return self.start_ms + self.duration_ms

    @property
    def throughput_tokens_per_s(self) -> float:
        """Generated tokens per second of window, idle time included; 0 for an empty window."""
        return 1000.0 * self.generated_tokens / self.duration_ms if self.duration_ms > 0 else 0.0

    @property
    def busy_throughput_tokens_per_s(self) -> float:
        """Generated tokens per second of step time: what the engine does while it works; 0 without steps."""
        return 1000.0 * self.generated_tokens / self.busy_ms if self.busy_ms > 0 else 0.0

    @property
    def refusals(self) -> int:
        """Requests refused, on arrival or by the guard."""
        return self.refused_on_arrival + self.refused_by_guard

    @property
    def prefix_hit_rate(self) -> float:
        """Share of the prompt tokens let in that were found in the prefix cache; NaN when nobody was let in."""
        return self.cached_prompt_tokens / self.admitted_prompt_tokens if self.admitted_prompt_tokens else math.nan

    @property
    def image_hit_rate(self) -> float:
        """Share of the images let in that need not be encoded; NaN when none was let in."""
        return self.image_hits / self.images if self.images else math.nan

    @property
    def accepted_length(self) -> float:
        """Mean tokens that a verified draft gave, the one after the accepted ones included; NaN without drafts."""
        return 1.0 + self.accepted_tokens / self.drafts if self.drafts else math.nan

    @property
    def memory_fraction(self) -> float:
        """Peak memory over the device's memory; the KV share where the device's memory is unknown."""
        return self.memory_peak_mb / self.memory_total_mb if self.memory_total_mb > 0 else self.kv_used_fraction

    def to_dict(self) -> dict[str, Any]:
        """The fields as plain data, for JSON and CSV."""
        return asdict(self)


METRIC_NAMES = tuple(field.name for field in fields(WindowMetrics) if field.name != "limits")
METRICS = np.dtype([(name, "f8") for name in METRIC_NAMES])
"""`WindowMetrics` without its limits as a record, for arrays of windows; counts are floats there."""

COUNT_NAMES = tuple(field.name for field in fields(WindowMetrics) if field.type == "int")
_values = attrgetter(*METRIC_NAMES)
_PERHAPS_NAN = tuple(field.name for field in fields(WindowMetrics) if field.type == "float")


def to_record(window: WindowMetrics) -> np.recarray[Any, np.dtype[Any]]:
    """A window as an array of one record of `METRICS`.

    Args:
        window: the window.

    Returns:
        Record array of shape (1,).
    """
    return np.array([_values(window)], METRICS).view(np.recarray)


def from_record(record: np.void, limits: Limits) -> WindowMetrics:
    """The public form of a record.

    Args:
        record: one record of `METRICS`.
        limits: the limits in force during the window.
    """
    return WindowMetrics(limits=limits, **plain_record(record))


def plain_record(record: np.void) -> dict[str, Any]:
    """A record as plain data: counts as whole numbers, by name.

    Args:
        record: one record of `METRICS`.
    """
    told: dict[str, Any] = dict(zip(METRIC_NAMES, record.item(), strict=True))
    for name in COUNT_NAMES:
        told[name] = int(told[name])
    return told


def measured(record: np.void) -> dict[str, Any]:
    """`plain_record` without what is NaN.

    Args:
        record: one record of `METRICS`.
    """
    told = plain_record(record)
    for name in _PERHAPS_NAN:
        if told[name] != told[name]:
            del told[name]
    return told


class MeasuredWindows(Sequence[WindowMetrics]):
    """Windows under one setting, kept as records: a `WindowMetrics` is made when somebody asks for it.

    Args:
        limits: in force in all of them.
        records: of `METRICS`, shape (n,).
    """

    def __init__(self, limits: Limits, records: NDArray[np.void]) -> None:
        self.limits, self._records = limits, records

    def __len__(self) -> int:
        return len(self._records)

    @overload
    def __getitem__(self, index: int) -> WindowMetrics: ...

    @overload
    def __getitem__(self, index: slice) -> MeasuredWindows: ...

    def __getitem__(self, index: int | slice) -> WindowMetrics | MeasuredWindows:
        if isinstance(index, slice):
            return MeasuredWindows(self.limits, self._records[index])
        return from_record(self._records[index], self.limits)

    def total(self, name: str) -> float:
        """The sum of a measurement over all windows, without making them.

        Args:
            name: a field of `WindowMetrics` that is a number.
        """
        return float(self._records[name].sum())

    def __eq__(self, other: object) -> bool:
        return isinstance(other, Sequence) and list(self) == list(other)

    __hash__ = None  # type: ignore[assignment]

    def __repr__(self) -> str:
        return f"MeasuredWindows({len(self)} windows under {self.limits})"
