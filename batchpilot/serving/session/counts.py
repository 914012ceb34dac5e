"""What a measurement window counts and what follows from it, by the definitions of `core.metrics`. Times in ms."""

from __future__ import annotations

import math
from collections import deque
from collections.abc import Sequence
from operator import mul

from batchpilot.core.limits import Limits
from batchpilot.core.metrics import WindowMetrics
from batchpilot.core.slo import typical_of_sorted
from batchpilot.serving.session.engine import EngineFacts, peak_tokens_per_s
from batchpilot.serving.session.requests import InFlight

MOST_TIMES = 4096
"""Step times, TTFTs and TPOTs remembered of a window for their percentiles, and steps remembered for details."""

Step = tuple[float, int, int, int, float, float, bool]
"""A step: when it ended, requests, tokens, context tokens, its time, KV in use as a share, and whether it failed."""


class WindowCounts:
    """What is counted since a window began; of steps, those that are no longer only noted.

    Attributes:
        start_ms: when it began.
    """

    def __init__(self, start_ms: float) -> None:
        self.start_ms = start_ms
        self.busy_ms = self.kv_ms = self.memory_mb_ms = self.peak_mb = 0.0
        self.steps = self.failures = self.batch_sum = self.token_sum = self.context_sum = 0
        self.generated_tokens = self.prefill_tokens = self.recomputed_tokens = self.preemptions = 0
        self.arrivals = self.arrived_prompt_tokens = 0
        self.completions = self.slo_met = self.slo_met_tokens = 0
        self.refused_on_arrival = self.refused_by_guard = self.failed_requests = self.cancelled_requests = 0
        self.step_times: deque[float] = deque(maxlen=MOST_TIMES)
        self.ttft_ms: deque[float] = deque(maxlen=MOST_TIMES)
        self.tpot_ms: deque[float] = deque(maxlen=MOST_TIMES)
        self.ttft_targets_ms: deque[float] = deque(maxlen=MOST_TIMES)
        self.tpot_targets_ms: deque[float] = deque(maxlen=MOST_TIMES)

    def add(self, steps: Sequence[Step], facts: EngineFacts) -> None:
        """Count steps that were only noted so far.

        Args:
            steps: in order, at least one.
            facts: what is known of the engine.
        """
        _, batch_sizes, tokens, contexts, durations_ms, kv_used, failed = zip(*steps, strict=True)
        busy_ms = sum(durations_ms)
        self.steps += len(durations_ms)
        self.failures += sum(failed)
        self.busy_ms += busy_ms
        self.batch_sum += sum(batch_sizes)
        self.token_sum += sum(tokens)
        self.context_sum += sum(contexts)
        self.step_times.extend(durations_ms)
        self.kv_ms += sum(map(mul, kv_used, durations_ms))
        kv_mb, token_mb = facts.kv_capacity_tokens * facts.kv_mb_per_token, facts.activation_mb_per_token
        if kv_mb or token_mb:
            variable_mb = [kv_mb * used + token_mb * computed for used, computed in zip(kv_used, tokens, strict=True)]
            self.peak_mb = max(self.peak_mb, facts.fixed_mb + max(variable_mb))
            self.memory_mb_ms += sum(map(mul, variable_mb, durations_ms))
        self.memory_mb_ms += facts.fixed_mb * busy_ms


class Carried:
    """What a window in which nothing came or was generated takes over from those before it.

    Attributes:
        peak_tokens_per_s: most that the engine could do with the mix it has.
        ttft_target_ms: what a typical request was promised.
        tpot_target_ms: likewise.
    """

    def __init__(self) -> None:
        self.peak_tokens_per_s = 0.0
        self.ttft_target_ms = self.tpot_target_ms = math.nan

    def update(self, counts: WindowCounts, facts: EngineFacts, estimate: Sequence[float] | None) -> None:
        """Learn from a window that has ended.

        Args:
            counts: of the window.
            facts: what is known of the engine.
            estimate: what a step is believed to cost, None for nothing.
        """
        if counts.arrivals:
            self.ttft_target_ms = typical_of_sorted(sorted(counts.ttft_targets_ms))
            self.tpot_target_ms = typical_of_sorted(sorted(counts.tpot_targets_ms))
        if estimate is not None and counts.generated_tokens:
            self.peak_tokens_per_s = peak_tokens_per_s(
                estimate,
                generated_tokens=counts.generated_tokens,
                asked_prefill_tokens=max(counts.prefill_tokens - counts.recomputed_tokens, 0),
                context_tokens=counts.context_sum / max(counts.batch_sum, 1),
                kv_capacity_tokens=facts.kv_capacity_tokens,
            )


def metrics_of(
    w: WindowCounts, requests: InFlight, facts: EngineFacts, carried: Carried, limits: Limits, now_ms: float
) -> WindowMetrics:
    """The measurements of a window.

    Args:
        w: what it counted, every step added.
        requests: who is in flight.
        facts: what is known of the engine.
        carried: what windows share.
        limits: in force during the window.
        now_ms: its end.
    """
    duration_ms, steps = now_ms - w.start_ms, max(w.steps, 1)
    judged = w.completions + w.refused_on_arrival + w.refused_by_guard + w.failed_requests
    ttft_ms, tpot_ms = sorted(w.ttft_ms), sorted(w.tpot_ms)
    return WindowMetrics(
        limits=limits,
        start_ms=w.start_ms,
        duration_ms=duration_ms,
        busy_ms=w.busy_ms,
        steps=w.steps,
        generated_tokens=w.generated_tokens,
        prefill_tokens=w.prefill_tokens,
        arrivals=w.arrivals,
        arrived_prompt_tokens=w.arrived_prompt_tokens,
        admitted_prompt_tokens=requests.admitted_prompt_tokens,
        cached_prompt_tokens=requests.cached_prompt_tokens,
        completions=w.completions,
        refused_on_arrival=w.refused_on_arrival,
        refused_by_guard=w.refused_by_guard,
        failed_requests=w.failed_requests,
        cancelled_requests=w.cancelled_requests,
        preemptions=w.preemptions,
        failures=w.failures,
        queue=len(requests.waiting),
        queued_tokens=requests.queued_tokens,
        oldest_wait_ms=requests.oldest_wait_ms(now_ms),
        running=len(requests.running),
        batch_size_mean=w.batch_sum / steps,
        tokens_per_step_mean=w.token_sum / steps,
        context_tokens_mean=w.context_sum / steps,
        step_ms_mean=w.busy_ms / w.steps if w.steps else math.nan,
        step_ms_p95=quantile(sorted(w.step_times), 0.95),
        ttft_ms_p50=quantile(ttft_ms, 0.50),
        ttft_ms_p95=quantile(ttft_ms, 0.95),
        ttft_ms_p99=quantile(ttft_ms, 0.99),
        tpot_ms_p50=quantile(tpot_ms, 0.50),
        tpot_ms_p95=quantile(tpot_ms, 0.95),
        tpot_ms_p99=quantile(tpot_ms, 0.99),
        slo_attainment=w.slo_met / judged if judged else math.nan,
        goodput_tokens_per_s=1000.0 * w.slo_met_tokens / duration_ms if duration_ms > 0 else 0.0,
        kv_used_fraction=w.kv_ms / w.busy_ms if w.busy_ms > 0 else 0.0,
        utilisation=min(w.busy_ms / duration_ms, 1.0) if duration_ms > 0 else 0.0,
        memory_used_mb=w.memory_mb_ms / w.busy_ms if w.busy_ms > 0 else facts.fixed_mb,
        memory_peak_mb=max(w.peak_mb, facts.fixed_mb),
        memory_total_mb=facts.total_mb,
        kv_capacity_tokens=facts.kv_capacity_tokens,
        peak_tokens_per_s=carried.peak_tokens_per_s,
        ttft_target_ms=carried.ttft_target_ms,
        tpot_target_ms=carried.tpot_target_ms,
    )


def quantile(ascending: Sequence[float], q: float) -> float:
    """Linear-interpolation quantile of sorted values, NaN without values.

    Args:
        ascending: the values.
        q: which, 0 to 1.
    """
    if not ascending:
        return math.nan
    position = q * (len(ascending) - 1)
    low = int(position)
    high = min(low + 1, len(ascending) - 1)
    return ascending[low] + (ascending[high] - ascending[low]) * (position - low)
