"""Measurement windows: from the scheduler's counters and event logs to `WindowMetrics`."""

from __future__ import annotations

import math

import numpy as np
from numba import prange
from numpy.typing import NDArray

from batchpilot.engines.simulated import LOG_FULL, advance
from batchpilot.engines.state import FAILED, LENGTH, REFUSED_ARRIVAL, REFUSED_GUARD, SchedulerState, row
from batchpilot.latency.compiled import allocating, kernel, parallel
from batchpilot.latency.saturation import step_ms

LARGEST_BATCH = 512.0
"""Batch sizes beyond this are not considered for the engine's peak."""


@kernel
def quantile(ascending: NDArray[np.float64], q: float) -> float:
    """Linear-interpolation quantile of sorted values, NaN without values."""
    n = len(ascending)
    if n == 0:
        return math.nan
    position = q * (n - 1)
    low = int(position)
    high = min(low + 1, n - 1)
    return ascending[low] + (ascending[high] - ascending[low]) * (position - low)


@kernel
def tpot_ms(s: SchedulerState, r: int) -> float:
    """Mean time per output token after the first of a finished request, NaN for a single token."""
    if s.requests[r].generated < 2:
        return math.nan
    return (s.requests[r].finish_ms - s.requests[r].first_ms) / (s.requests[r].generated - 1)


@kernel
def met_slo(s: SchedulerState, r: int) -> bool:
    """Whether a request finished by length within its TTFT and TPOT targets."""
    if (
        s.requests[r].reason != LENGTH
        or s.requests[r].first_ms - s.requests[r].arrival_ms > s.requests[r].ttft_target_ms
    ):
        return False
    return s.requests[r].generated < 2 or tpot_ms(s, r) <= s.requests[r].tpot_target_ms


@kernel
def decode_ms_at_best(s: SchedulerState, context: float) -> float:
    """Estimated ms per token at the best batch size that the KV cache holds, when every request reads `context`."""
    c = s.clock[0]
    largest = max(min(LARGEST_BATCH, c.total_blocks * c.block_size / max(context, 1.0)), 1.0)
    best = math.inf
    size = 1.0
    while size < largest:
        best = min(best, step_ms(s.parameters[0, 1:], size, size, size * context) / size)
        size *= 2.0
    return min(best, step_ms(s.parameters[0, 1:], largest, largest, largest * context) / largest)


@kernel
def peak_tokens_per_s(s: SchedulerState) -> float:
    """Estimated peak of generated tokens per second for the window's mix of prompt and output tokens.

    From the least time its work could have taken: the longer of decoding alone at the best batch size, and of all its
    tokens at saturated throughput with their own context read. Stated per mix, since no engine generates as much while
    it also computes long prompts; recomputation after preemption is no work asked for. A window without output keeps
    the last value.
    """
    c = s.clock[0]
    w = s.window[0]
    if w.generated_tokens > 0:
        estimate = s.parameters[0, 1:]
        context = w.context_sum / max(w.batch_sum, 1)
        token_ms = estimate[4] / estimate[0] + estimate[7]
        asked = max(w.prefill_tokens - w.recomputed_tokens, 0) + w.generated_tokens
        saturated_ms = asked * token_ms + w.generated_tokens * (estimate[6] + estimate[8] * context)
        ideal_ms = max(saturated_ms, w.generated_tokens * decode_ms_at_best(s, context))
        c.peak_tokens_per_s = 1000.0 * w.generated_tokens / ideal_ms
    return c.peak_tokens_per_s


@allocating
def summarise(s: SchedulerState, out) -> None:  # type: ignore[no-untyped-def]
    """Fill `out[0]`, a record of `METRICS`, from everything since the window began."""
    c = s.clock[0]
    w = s.window[0]
    m = out[0]
    duration = c.now_ms - w.start_ms
    m.start_ms = w.start_ms
    m.duration_ms = duration
    m.busy_ms = w.busy_ms
    m.steps = w.steps
    m.generated_tokens = w.generated_tokens
    m.prefill_tokens = w.prefill_tokens
    m.arrivals = w.arrivals
    m.arrived_prompt_tokens = w.arrived_prompt_tokens
    m.preemptions = w.preemptions
    m.failures = w.failures
    m.queue = c.n_queue
    m.queued_tokens = c.queued_tokens
    m.running = c.n_running
    oldest = c.now_ms
    for k in range(c.n_queue):
        oldest = min(oldest, s.requests[s.slots[k].waiting].arrival_ms)
    m.oldest_wait_ms = c.now_ms - oldest

    steps = max(w.steps, 1)
    m.batch_size_mean = w.batch_sum / steps
    m.tokens_per_step_mean = w.token_sum / steps
    m.context_tokens_mean = w.context_sum / steps
    m.step_ms_mean = w.busy_ms / w.steps if w.steps > 0 else math.nan
    m.step_ms_p95 = quantile(np.sort(s.step_times[: min(w.steps, len(s.step_times))]), 0.95)

    ttft = np.empty(c.n_first - w.first_start)
    for k in range(len(ttft)):
        request = s.requests[s.slots[w.first_start + k].first]
        ttft[k] = request.first_ms - request.arrival_ms
    ttft.sort()
    m.ttft_ms_p50 = quantile(ttft, 0.50)
    m.ttft_ms_p95 = quantile(ttft, 0.95)
    m.ttft_ms_p99 = quantile(ttft, 0.99)

    n_ended = c.n_ended - w.end_start
    tpot = np.empty(n_ended)
    counts = np.zeros(5, dtype=np.int64)
    n_tpot = 0
    met = 0
    met_tokens = 0
    for k in range(n_ended):
        r = s.slots[w.end_start + k].ended
        counts[s.requests[r].reason] += 1
        if s.requests[r].reason == LENGTH and s.requests[r].generated > 1:
            tpot[n_tpot] = tpot_ms(s, r)
            n_tpot += 1
        if met_slo(s, r):
            met += 1
            met_tokens += s.requests[r].generated
    ascending = np.sort(tpot[:n_tpot])
    m.tpot_ms_p50 = quantile(ascending, 0.50)
    m.tpot_ms_p95 = quantile(ascending, 0.95)
    m.tpot_ms_p99 = quantile(ascending, 0.99)
    m.completions = counts[LENGTH]
    m.refused_on_arrival = counts[REFUSED_ARRIVAL]
    m.refused_by_guard = counts[REFUSED_GUARD]
    m.failed_requests = counts[FAILED]
    m.slo_attainment = met / n_ended if n_ended > 0 else math.nan
    m.goodput_tokens_per_s = 1000.0 * met_tokens / duration if duration > 0 else 0.0

    m.kv_used_fraction = w.kv_block_ms / (w.busy_ms * c.total_blocks) if w.busy_ms > 0 else 0.0
    m.utilisation = min(w.busy_ms / duration, 1.0) if duration > 0 else 0.0
    m.memory_used_mb = w.memory_mb_ms / w.busy_ms if w.busy_ms > 0 else c.fixed_mb
    m.memory_peak_mb = max(w.peak_mb, c.fixed_mb)
    m.memory_total_mb = c.total_mb
    m.kv_capacity_tokens = c.total_blocks * c.block_size
    m.peak_tokens_per_s = peak_tokens_per_s(s)
    if w.arrivals > 0:
        c.ttft_target_ms = w.ttft_target_sum / w.arrivals
        c.tpot_target_ms = w.tpot_target_sum / w.arrivals
    m.ttft_target_ms = c.ttft_target_ms
    m.tpot_target_ms = c.tpot_target_ms


@kernel
def open_window(s: SchedulerState) -> None:
    """Start counting a new window at the present time."""
    c = s.clock[0]
    w = s.window[0]
    w.start_ms = c.now_ms
    w.busy_ms = 0.0
    w.steps = 0
    w.generated_tokens = 0
    w.prefill_tokens = 0
    w.arrivals = 0
    w.arrived_prompt_tokens = 0
    w.ttft_target_sum = 0.0
    w.tpot_target_sum = 0.0
    w.preemptions = 0
    w.recomputed_tokens = 0
    w.failures = 0
    w.batch_sum = 0
    w.token_sum = 0
    w.context_sum = 0
    w.kv_block_ms = 0.0
    w.memory_mb_ms = 0.0
    w.peak_mb = 0.0
    w.first_start = c.n_first
    w.end_start = c.n_ended


@allocating
def run_window(s: SchedulerState, until_ms: float, out) -> int:  # type: ignore[no-untyped-def]
    """`advance`, then fill `out[0]` and open the next window; with a full step log only the former.

    Returns:
        What `advance` returned.
    """
    code = advance(s, until_ms)
    if code != LOG_FULL:
        summarise(s, out)
        open_window(s)
    return code


@parallel
def summarise_many(s: SchedulerState, out) -> None:  # type: ignore[no-untyped-def]
    """`summarise`, then `open_window`, for every row in parallel threads; `out` holds one record a row."""
    for i in prange(len(out)):
        one = row(s, i)
        summarise(one, out[i : i + 1])
        open_window(one)
