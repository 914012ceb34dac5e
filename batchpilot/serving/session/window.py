"""Measurement windows from a server's events, by the definitions of `core.metrics`. Times in ms.

The recorder counts and knows no clock, tuner or thread: each call says when it happened. A step is only noted; what
windows sum over steps is summed for many of them at once.
"""

from __future__ import annotations

import math
from collections import deque
from collections.abc import Hashable, Iterable, Sequence
from operator import mul, sub

import numpy as np

from batchpilot.core.details import WindowDetails
from batchpilot.core.limits import Limits
from batchpilot.core.metrics import WindowMetrics
from batchpilot.core.slo import typical_of_sorted
from batchpilot.serving.session.engine import EngineFacts, peak_tokens_per_s
from batchpilot.serving.session.requests import InFlight, Tracked, as_records

MOST_TIMES = 4096
"""Step times, TTFTs and TPOTs remembered of a window for their percentiles, and steps remembered for details."""


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


class WindowRecorder:
    """Counts events into windows.

    Args:
        facts: what is known of the engine.
        now_ms: when the first window begins.

    Attributes:
        facts: as given.
        requests: who is in flight.
        now: what the present window has counted.
        keeps_details: whether `take_details` will be called.
        odd_events: events that made no sense (unknown or ended requests, negative numbers) and counted for nothing.
    """

    def __init__(self, facts: EngineFacts, now_ms: float = 0.0) -> None:
        self.facts = facts
        self.requests = InFlight()
        self.now = WindowCounts(now_ms)
        self.odd_events = 0
        self.keeps_details = False
        self._peak = 0.0
        self._ttft_target_ms = self._tpot_target_ms = math.nan
        self._noted: list[tuple[float, int, int, int, float, float, bool]] = []
        self._steps: deque[tuple[float, int, int, int, float]] = deque(maxlen=MOST_TIMES)
        self._arrived: list[Tracked] = []
        self._output_tokens: list[int] = []

    def arrive(
        self,
        now_ms: float,
        request: Hashable,
        prompt_tokens: int,
        ttft_target_ms: float,
        tpot_target_ms: float,
        cached_tokens: int = 0,
    ) -> None:
        """A request arrives.

        Args:
            now_ms: when.
            request: its id.
            prompt_tokens: its prompt.
            ttft_target_ms: its promise; infinite, or no time at all, for none.
            tpot_target_ms: likewise.
            cached_tokens: what of its prompt the server has in its prefix cache.
        """
        requests, counts = self.requests, self.now
        if request in requests.running or request in requests.waiting or prompt_tokens < 0:
            self.odd_events += 1
            return
        # What is no time above zero promises nothing.
        ttft_target_ms = ttft_target_ms if ttft_target_ms > 0 else math.inf
        tpot_target_ms = tpot_target_ms if tpot_target_ms > 0 else math.inf
        tracked = Tracked(now_ms, prompt_tokens, ttft_target_ms, tpot_target_ms, cached_tokens)
        requests.arrive(request, tracked)
        counts.arrivals += 1
        counts.arrived_prompt_tokens += prompt_tokens
        counts.ttft_targets_ms.append(ttft_target_ms)
        counts.tpot_targets_ms.append(tpot_target_ms)
        if self.keeps_details:
            self._arrived.append(tracked)

    def start(self, request: Hashable, cached_tokens: int | None = None) -> None:
        """A request is let in.

        Args:
            request: its id.
            cached_tokens: what was found of its prompt; None for what was known before.
        """
        self._known(self.requests.start(request, cached_tokens))

    def prefill(self, request: Hashable, tokens: int) -> None:
        """A step computed part of a request's prompt, or recomputed what a preemption lost.

        Args:
            request: its id.
            tokens: how many.
        """
        tracked = self._known(self.requests.start(request))
        if tracked is not None and tokens > 0:
            tracked.prefill_told = True
            self.requests.compute(tracked, tokens)
            self.now.prefill_tokens += tokens

    def emit(self, now_ms: float, request: Hashable, tokens: int) -> Tracked | None:
        """A request emits output tokens; its prompt is taken as computed with the first unless it was told in parts.

        Args:
            now_ms: when.
            request: its id.
            tokens: how many, >= 1.

        Returns:
            The request if this was its first token, else None.
        """
        tracked = self._known(self.requests.start(request))
        if tracked is None or tokens < 1:
            return None
        counts, first = self.now, not tracked.generated_tokens
        if first:
            tracked.first_token_ms = now_ms
            counts.ttft_ms.append(now_ms - tracked.arrival_ms)
            if not tracked.prefill_told:
                counts.prefill_tokens += tracked.uncached_tokens
        self.requests.emit(tracked, tokens)
        counts.generated_tokens += tokens
        return tracked if first else None

    def emit_together(self, now_ms: float, requests: Iterable[Hashable], tokens: int) -> list[Tracked]:
        """Each of a step's requests emits output tokens, as by `emit`.

        Args:
            now_ms: when.
            requests: their ids.
            tokens: how many each, >= 1.

        Returns:
            Those for which it was the first token.
        """
        told, began = list(requests), []
        fresh = self.requests.decode(told, tokens)
        self.now.generated_tokens += tokens * (len(told) - len(fresh))
        for request in fresh:
            tracked = self.emit(now_ms, request, tokens)
            if tracked is not None:
                began.append(tracked)
            if fresh is not told:
                self.requests.join(request)
        return began

    def preempt(self, request: Hashable) -> None:
        """A running request goes back into the queue.

        Args:
            request: its id.
        """
        tracked = self._known(self.requests.put_back(request))
        if tracked is not None:
            self.now.preemptions += 1
            self.now.recomputed_tokens += tracked.computed_tokens
            tracked.computed_tokens = 0

    def finish(self, now_ms: float, request: Hashable, output_tokens: int | None, texts: int = 1) -> None:
        """A request has said everything.

        Args:
            now_ms: when.
            request: its id.
            output_tokens: its output; what was not told token by token counts now. None for what was told.
            texts: how many texts it is, generated at once.
        """
        if output_tokens is not None:
            tracked = self.requests.get(request)
            if tracked is not None and output_tokens > tracked.generated_tokens:
                self.emit(now_ms, request, output_tokens - tracked.generated_tokens)
        tracked = self._known(self.requests.leave(request))
        if tracked is None:
            return
        counts, tpot_ms = self.now, tracked.tpot_ms(now_ms, texts)
        counts.completions += 1
        if not math.isnan(tpot_ms):
            counts.tpot_ms.append(tpot_ms)
        in_time = tracked.first_token_ms - tracked.arrival_ms <= tracked.ttft_target_ms
        if in_time and not tpot_ms > tracked.tpot_target_ms:
            counts.slo_met += 1
            counts.slo_met_tokens += tracked.generated_tokens
        if self.keeps_details:
            self._output_tokens.append(tracked.generated_tokens)

    def end(self, request: Hashable, outcome: str) -> None:
        """A request ends without having said everything.

        Args:
            request: its id.
            outcome: the counter it goes into, "refused_on_arrival" and the like.
        """
        if self._known(self.requests.leave(request)) is not None:
            setattr(self.now, outcome, getattr(self.now, outcome) + 1)

    def step(
        self,
        now_ms: float,
        batch_size: int,
        tokens: int,
        context_tokens: int,
        duration_ms: float,
        kv_used_fraction: float | None,
        failed: bool,
    ) -> None:
        """A step ends, or fails.

        Args:
            now_ms: when.
            batch_size: requests in it.
            tokens: tokens computed.
            context_tokens: tokens read by attention.
            duration_ms: step time.
            kv_used_fraction: KV in use; None takes it from the requests that run.
            failed: whether it did.
        """
        if not (batch_size >= 0 and tokens >= 0 and 0 <= duration_ms < math.inf):
            self.odd_events += 1
            return
        if kv_used_fraction is None:
            capacity_tokens = self.facts.kv_capacity_tokens
            kv_used_fraction = min(self.requests.held_tokens / capacity_tokens, 1.0) if capacity_tokens else 0.0
        self._noted.append((now_ms, batch_size, tokens, context_tokens, duration_ms, kv_used_fraction, failed))
        if len(self._noted) == MOST_TIMES:
            self._sum_steps()

    def close(self, now_ms: float, limits: Limits, estimate: Sequence[float] | None) -> WindowMetrics:
        """Measurements since the window began, and the start of a new one.

        Args:
            now_ms: the present.
            limits: in force during the window.
            estimate: what a step is believed to cost, None for the facts' estimate.
        """
        window = self._summarise(now_ms, limits, estimate if estimate is not None else self.facts.estimate)
        self.now = WindowCounts(now_ms)
        self.requests.admitted_prompt_tokens = self.requests.cached_prompt_tokens = 0
        return window

    def take_details(self, now_ms: float) -> WindowDetails:
        """Everything since the last call, and who is in flight now.

        Args:
            now_ms: the present.
        """
        self.requests.update()
        self._sum_steps()
        details = WindowDetails(
            now_ms=now_ms,
            steps=np.array(self._steps, np.float64).reshape(-1, 5),
            arrivals=as_records(self._arrived),
            output_tokens=np.array(self._output_tokens, np.int64),
            running=as_records(self.requests.running.values()),
            waiting=as_records(self.requests.waiting.values()),
        )
        self._steps.clear()
        self._arrived, self._output_tokens = [], []
        return details

    def _sum_steps(self) -> None:
        """Count the steps that are only noted so far."""
        noted, self._noted = self._noted, []
        if not noted:
            return
        counts, facts = self.now, self.facts
        ended_ms, batch_sizes, tokens, contexts, durations_ms, kv_used, failed = zip(*noted, strict=True)
        if self.keeps_details:
            began_ms = map(sub, ended_ms, durations_ms)
            self._steps.extend(zip(began_ms, batch_sizes, tokens, contexts, durations_ms, strict=True))
        busy_ms = sum(durations_ms)
        counts.steps += len(durations_ms)
        counts.failures += sum(failed)
        counts.busy_ms += busy_ms
        counts.batch_sum += sum(batch_sizes)
        counts.token_sum += sum(tokens)
        counts.context_sum += sum(contexts)
        counts.step_times.extend(durations_ms)
        counts.kv_ms += sum(map(mul, kv_used, durations_ms))
        kv_mb, token_mb = facts.kv_capacity_tokens * facts.kv_mb_per_token, facts.activation_mb_per_token
        if kv_mb or token_mb:
            variable_mb = [kv_mb * used + token_mb * computed for used, computed in zip(kv_used, tokens, strict=True)]
            counts.peak_mb = max(counts.peak_mb, facts.fixed_mb + max(variable_mb))
            counts.memory_mb_ms += sum(map(mul, variable_mb, durations_ms))
        counts.memory_mb_ms += facts.fixed_mb * busy_ms

    def _known(self, tracked: Tracked | None) -> Tracked | None:
        if tracked is None:
            self.odd_events += 1
        return tracked

    def _summarise(self, now_ms: float, limits: Limits, estimate: Sequence[float] | None) -> WindowMetrics:
        self._sum_steps()
        w, facts, requests = self.now, self.facts, self.requests
        duration_ms = now_ms - w.start_ms
        if w.arrivals:
            self._ttft_target_ms = typical_of_sorted(sorted(w.ttft_targets_ms))
            self._tpot_target_ms = typical_of_sorted(sorted(w.tpot_targets_ms))
        if estimate is not None and w.generated_tokens:
            self._peak = peak_tokens_per_s(
                estimate,
                generated_tokens=w.generated_tokens,
                asked_prefill_tokens=max(w.prefill_tokens - w.recomputed_tokens, 0),
                context_tokens=w.context_sum / max(w.batch_sum, 1),
                kv_capacity_tokens=facts.kv_capacity_tokens,
            )
        steps = max(w.steps, 1)
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
            peak_tokens_per_s=self._peak,
            ttft_target_ms=self._ttft_target_ms,
            tpot_target_ms=self._tpot_target_ms,
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
