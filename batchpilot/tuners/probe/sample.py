"""What the probe tuner reads from a window, and what the window proves about its batch size. Times in ms.

Busy throughput falls with the number of running requests, so a score says something about a batch size only when the
batch size, or the engine, was what held the server back. `Evidence` tells which. Under light load every size that the
load does not fill behaves alike: such a window is neither an improvement nor a drop, whatever its score.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from enum import Enum
from typing import NamedTuple

from batchpilot.core import WindowMetrics

FILLED = 0.9
"""A batch holding this share of its limit on average counts as full."""

RAMP = 1.1
"""More than this factor between running requests and the mean batch means that the batch is still changing."""

QUEUED_STEPS = 2.0
"""A request that waited longer than this many steps is held back by the engine, not by the moment of its arrival."""

_HUGE = 1e15
_INSTANT_MS = 1e-6
_LEAST_PEAK = 1e-6


class Evidence(Enum):
    """What restricted the engine during a window."""

    BINDING = "the batch size"
    SATURATED = "memory or the token budget"
    LIGHT = "the load"
    FILLING = "a batch still filling up"
    OVERHANG = "the batch size, with more requests running than it lets into a step"
    DRAINING = "a batch larger than the limit, still draining"


class Sample(NamedTuple):
    """A window's numbers, checked: finite, not negative, shares within [0, 1].

    Attributes:
        evidence: what restricted the engine.
        end_ms: engine time at the window's end.
        duration_ms: its length.
        busy_ms: time within steps.
        steps: completed steps.
        generated_tokens: output tokens emitted.
        prefill_tokens: prompt tokens computed.
        step_ms: mean step time.
        throughput_tokens_per_s: generated tokens per second of step time.
        peak_tokens_per_s: the engine's estimated peak, 0 when unknown.
        utilisation: share of the window within steps.
        memory_efficiency: 1 - memory waste; 1 where memory is not reported.
        memory_fraction: memory in use over total, the KV share where the device's memory is unknown; the mean, because
            a server that reserves its KV cache peaks at its own limit whatever the batch. The peak enters the estimate
            of what a larger batch needs.
        memory_peak_mb: most memory in use.
        memory_total_mb: the device's memory, 0 when unknown.
        arrivals: requests that arrived.
        batch_size_mean: mean requests per step; the limit where it is not reported.
    """

    evidence: Evidence
    end_ms: float
    duration_ms: float
    busy_ms: float
    steps: float
    generated_tokens: float
    prefill_tokens: float
    step_ms: float
    throughput_tokens_per_s: float
    peak_tokens_per_s: float
    utilisation: float
    memory_efficiency: float
    memory_fraction: float
    memory_peak_mb: float
    memory_total_mb: float
    arrivals: float
    batch_size_mean: float


def is_odd(metrics: WindowMetrics) -> bool:
    """Whether a number that the tuner needs is not finite, negative or beyond any server.

    Args:
        metrics: a window as heard.
    """
    try:
        return not (
            0 <= metrics.start_ms < _HUGE
            and 0 <= metrics.duration_ms < _HUGE
            and 0 <= metrics.busy_ms < _HUGE
            and 0 <= metrics.steps < _HUGE
            and 0 <= metrics.generated_tokens < _HUGE
            and 0 <= metrics.prefill_tokens < _HUGE
            and 0 <= metrics.arrivals < _HUGE
            and 0 <= metrics.queue < _HUGE
            and 0 <= metrics.running < _HUGE
            and 0 <= metrics.oldest_wait_ms < _HUGE
            and 0 <= metrics.batch_size_mean < _HUGE
            and 0 <= metrics.utilisation < _HUGE
            and 0 <= metrics.kv_used_fraction < _HUGE
            and 0 <= metrics.memory_used_mb < _HUGE
            and 0 <= metrics.memory_peak_mb < _HUGE
            and 0 <= metrics.memory_total_mb < _HUGE
            and 0 <= metrics.peak_tokens_per_s < _HUGE
        )
    except TypeError:
        return True


def measured_nothing(metrics: WindowMetrics) -> bool:
    """Whether a window holds no measurement: no step, no token, or no time worth the name.

    Args:
        metrics: a window that is not odd.
    """
    no_time = metrics.busy_ms < _INSTANT_MS or metrics.duration_ms < _INSTANT_MS
    return no_time or metrics.steps < 1 or metrics.generated_tokens < 1


def read(metrics: WindowMetrics) -> Sample:
    """The sample of a window that is neither odd nor empty.

    Args:
        metrics: the window.
    """
    duration_ms, busy_ms = metrics.duration_ms, metrics.busy_ms
    steps, tokens = metrics.steps, metrics.generated_tokens
    step_ms, peak_tokens_per_s = busy_ms / steps, metrics.peak_tokens_per_s
    used_mb, peak_mb, total_mb = metrics.memory_used_mb, metrics.memory_peak_mb, metrics.memory_total_mb
    # In the order of the fields: names cost four times as much here, in every window.
    return Sample(
        evidence(metrics, step_ms),
        metrics.start_ms + duration_ms,
        duration_ms,
        busy_ms,
        steps,
        tokens,
        metrics.prefill_tokens,
        step_ms,
        min(1000.0 * tokens / busy_ms, _HUGE),
        peak_tokens_per_s if peak_tokens_per_s >= _LEAST_PEAK else 0.0,
        min(metrics.utilisation, 1.0),
        min(used_mb / peak_mb, 1.0) if peak_mb > 0 else 1.0,
        min((used_mb or peak_mb) / total_mb if total_mb > 0 else metrics.kv_used_fraction, 1.0),
        peak_mb,
        total_mb,
        metrics.arrivals,
        metrics.batch_size_mean or float(metrics.limits.batch_size),
    )


def evidence(metrics: WindowMetrics, step_ms: float) -> Evidence:
    """What restricted the engine during a window.

    Args:
        metrics: a window that is neither odd nor empty; a `batch_size_mean` of 0 means that it is not reported, and
            the batch is believed to be full.
        step_ms: its mean step time.
    """
    limit, batch = metrics.limits.batch_size, metrics.batch_size_mean
    if batch > RAMP * limit:
        return Evidence.DRAINING
    if metrics.running > max(RAMP * limit, limit + 1):
        return Evidence.OVERHANG
    if batch == 0 or batch >= FILLED * limit:
        return Evidence.BINDING
    if metrics.queue > 0 and metrics.running > RAMP * batch:
        return Evidence.FILLING
    if metrics.queue > 0 and metrics.oldest_wait_ms > QUEUED_STEPS * step_ms:
        return Evidence.SATURATED
    return Evidence.LIGHT


def combine(samples: Sequence[Sample]) -> Sample:
    """One sample for several windows at the same size: sums, rates of sums, means weighted by time, the last evidence.

    Args:
        samples: at least one, in order.
    """
    if len(samples) == 1:
        return samples[0]
    duration_ms = busy_ms = ideal_s = utilisation = memory_efficiency = batch_size = 0.0
    memory_fraction = memory_peak_mb = 0.0
    steps = generated_tokens = prefill_tokens = arrivals = 0.0
    for sample in samples:
        # As one tuple, for a decision is made of several windows, each with all of these.
        _, _, time_ms, busy, ran, tokens, prompts, _, _, peak, used, tidy, memory, peak_mb, _, came, batch = sample
        duration_ms += time_ms
        busy_ms += busy
        steps += ran
        generated_tokens += tokens
        prefill_tokens += prompts
        arrivals += came
        # The time an engine at its peak would have taken, as far as every window knows its peak.
        ideal_s += tokens / peak if peak > 0 else math.inf
        utilisation += used * time_ms
        memory_efficiency += tidy * time_ms
        batch_size += batch * time_ms
        if memory > memory_fraction:
            memory_fraction = memory
        if peak_mb > memory_peak_mb:
            memory_peak_mb = peak_mb
    last = samples[-1]
    return Sample(
        last.evidence,
        last.end_ms,
        duration_ms,
        busy_ms,
        steps,
        generated_tokens,
        prefill_tokens,
        busy_ms / steps,
        min(1000.0 * generated_tokens / busy_ms, _HUGE),
        min(generated_tokens / ideal_s, _HUGE),
        utilisation / duration_ms,
        memory_efficiency / duration_ms,
        memory_fraction,
        memory_peak_mb,
        last.memory_total_mb,
        arrivals,
        batch_size / duration_ms,
    )
