"""Measurement windows: from the scheduler's counters and event logs to `WindowMetrics`."""

from __future__ import annotations

import math

import numpy as np
from numpy.typing import NDArray

from batchpilot.core.slo import typical_of_sorted
from batchpilot.engines.scheduler.calendars import close_calendars
from batchpilot.engines.scheduler.queue import FCFS
from batchpilot.engines.scheduler.state import SchedulerState
from batchpilot.engines.simulated.kernel import DONE, LOG_FULL, REACHED, STUCK, run_steps
from batchpilot.latency.model.compiled import inlined, kernel
from batchpilot.latency.model.saturation import step_ms

LARGEST_BATCH = 512.0
"""Batch sizes beyond this are not considered for the engine's peak."""

typical = kernel(typical_of_sorted)


@kernel
def put_in_place(values: NDArray[np.float64], n: int, k: int) -> None:
    """Move the k-th smallest of the first n values to place k, smaller ones before it and larger ones behind."""
    low, high = 0, n - 1
    while low < high:
        pivot = values[(low + high) >> 1]
        i, j = low, high
        while i <= j:
            while values[i] < pivot:
                i += 1
            while values[j] > pivot:
                j -= 1
            if i <= j:
                values[i], values[j] = values[j], values[i]
                i += 1
                j -= 1
        if k <= j:
            high = j
        elif k >= i:
            low = i
        else:
            return


@kernel
def sort_in_place(values: NDArray[np.float64], n: int) -> None:
    """Sort the first n values, few of which differ: most requests are promised the same."""
    for k in range(1, n):
        value, place = values[k], k
        while place > 0 and values[place - 1] > value:
            values[place] = values[place - 1]
            place -= 1
        values[place] = value


@kernel
def quantile(values: NDArray[np.float64], n: int, q: float) -> float:
    """Linear-interpolation quantile of the first n values, NaN without values; their order is not kept."""
    if n == 0:
        return math.nan
    position = q * (n - 1)
    low = int(position)
    put_in_place(values, n, low)
    if low + 1 == n:
        return values[low]
    following = values[low + 1]
    for k in range(low + 2, n):
        following = min(following, values[k])
    return values[low] + (following - values[low]) * (position - low)


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


@kernel
def oldest_wait_ms(s: SchedulerState) -> float:
    """Age of the longest waiting request, 0 without one."""
    c = s.clock[0]
    looked_at = min(c.n_queue, 1) if c.discipline == FCFS and not c.ceilings else c.n_queue
    oldest = c.now_ms
    for k in range(looked_at):
        oldest = min(oldest, s.requests[s.lines[k].waiting].arrival_ms)
    return c.now_ms - oldest


@kernel
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
    m.admitted_prompt_tokens = w.admitted_prompt_tokens
    m.cached_prompt_tokens = w.cached_prompt_tokens
    m.images = w.images
    m.image_hits = w.image_hits
    m.encode_ms = w.encode_ms
    m.drafts = w.drafts
    m.drafted_tokens = w.drafted_tokens
    m.accepted_tokens = w.accepted_tokens
    m.preemptions = w.preemptions
    m.failures = w.failures
    m.queue = c.n_queue
    m.queued_tokens = c.queued_tokens
    m.running = c.n_running
    m.oldest_wait_ms = oldest_wait_ms(s)

    steps = max(w.steps, 1)
    m.batch_size_mean = w.batch_sum / steps
    m.tokens_per_step_mean = w.token_sum / steps
    m.context_tokens_mean = w.context_sum / steps
    m.step_ms_mean = w.busy_ms / w.steps if w.steps > 0 else math.nan
    m.step_ms_p95 = quantile(s.step_times, min(w.steps, len(s.step_times)), 0.95)

    ttft = s.slots["ttft_ms"]
    n_ttft = min(w.n_ttft, len(s.slots))
    m.ttft_ms_p50 = quantile(ttft, n_ttft, 0.50)
    m.ttft_ms_p95 = quantile(ttft, n_ttft, 0.95)
    m.ttft_ms_p99 = quantile(ttft, n_ttft, 0.99)

    tpot = s.slots["tpot_ms"]
    n_tpot = min(w.n_tpot, len(s.slots))
    m.tpot_ms_p50 = quantile(tpot, n_tpot, 0.50)
    m.tpot_ms_p95 = quantile(tpot, n_tpot, 0.95)
    m.tpot_ms_p99 = quantile(tpot, n_tpot, 0.99)
    m.completions = w.completions
    m.refused_on_arrival = w.refused_on_arrival
    m.refused_by_guard = w.refused_by_guard
    m.failed_requests = w.failed_requests
    m.cancelled_requests = w.cancelled_requests
    judged = w.completions + w.refused_on_arrival + w.refused_by_guard + w.failed_requests
    m.slo_attainment = w.slo_met / judged if judged > 0 else math.nan
    m.goodput_tokens_per_s = 1000.0 * w.slo_met_tokens / duration if duration > 0 else 0.0

    m.kv_used_fraction = w.kv_block_ms / (w.busy_ms * c.total_blocks) if w.busy_ms > 0 else 0.0
    m.utilisation = min(w.busy_ms / duration, 1.0) if duration > 0 else 0.0
    m.memory_used_mb = w.memory_mb_ms / w.busy_ms if w.busy_ms > 0 else c.fixed_mb
    m.memory_peak_mb = max(w.peak_mb, c.fixed_mb)
    m.memory_total_mb = c.total_mb
    m.kv_capacity_tokens = c.total_blocks * c.block_size
    m.peak_tokens_per_s = peak_tokens_per_s(s)
    if w.arrivals > 0:
        known = min(w.arrivals, s.targets.shape[1])
        sort_in_place(s.targets[0], known)
        sort_in_place(s.targets[1], known)
        c.ttft_target_ms = typical(s.targets[0, :known])
        c.tpot_target_ms = typical(s.targets[1, :known])
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
    w.preemptions = 0
    w.recomputed_tokens = 0
    w.admitted_prompt_tokens = 0
    w.cached_prompt_tokens = 0
    w.failures = 0
    w.batch_sum = 0
    w.token_sum = 0
    w.context_sum = 0
    w.kv_block_ms = 0.0
    w.memory_mb_ms = 0.0
    w.peak_mb = 0.0
    w.n_ttft = 0
    w.n_tpot = 0
    w.completions = 0
    w.refused_on_arrival = 0
    w.refused_by_guard = 0
    w.failed_requests = 0
    w.cancelled_requests = 0
    w.slo_met = 0
    w.slo_met_tokens = 0
    w.images = 0
    w.image_hits = 0
    w.encode_ms = 0.0
    w.drafts = 0
    w.drafted_tokens = 0
    w.accepted_tokens = 0


@inlined
def run_open(s: SchedulerState, window_ms: float, end_ms: float, out) -> tuple[int, int]:  # type: ignore[no-untyped-def]
    """`run_windows`, but for the records of requests that decode."""
    c = s.clock[0]
    done = 0
    code = REACHED
    while done < len(out) and c.now_ms < end_ms and code != DONE and code != STUCK:
        code = run_steps(s, min(s.window[0].start_ms + window_ms, end_ms))
        if code == LOG_FULL:
            break
        summarise(s, out[done : done + 1])
        open_window(s)
        done += 1
    return done, code


@kernel
def run_windows(s: SchedulerState, window_ms: float, end_ms: float, out) -> tuple[int, int]:  # type: ignore[no-untyped-def]
    """Window after window under the same limits, until `out` is full, the time is up or everything has ended.

    Args:
        s: one simulation.
        window_ms: length of a window.
        end_ms: where to stop.
        out: records of `METRICS`, shape (n,).

    Returns:
        Windows run, and what the last `advance` returned. A full step log ends them within a window, which is not
        counted and goes on with the next call.
    """
    done, code = run_open(s, window_ms, end_ms, out)
    if s.clock[0].decoding:
        close_calendars(s)
    return done, code
