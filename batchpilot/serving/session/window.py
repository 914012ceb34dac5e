"""Measurement windows from a server's events, by the definitions of `core.metrics`. Times in ms.

The recorder counts and knows no clock, tuner or thread: each call says when it happened. A step is only noted; what
windows sum over steps is summed for many of them at once.
"""

from __future__ import annotations

import math
from collections import deque
from collections.abc import Hashable, Iterable, Sequence
from operator import sub

import numpy as np

from batchpilot.core.details import WindowDetails
from batchpilot.core.limits import Limits
from batchpilot.core.metrics import WindowMetrics
from batchpilot.serving.session.counts import MOST_TIMES, Carried, Step, WindowCounts, metrics_of
from batchpilot.serving.session.engine import EngineFacts
from batchpilot.serving.session.requests import InFlight, Tracked, as_records


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
        self._carried = Carried()
        self._noted: list[Step] = []
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
        told = requests if isinstance(requests, list) else list(requests)
        began = []
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
    ) -> bool:
        """A step ends, or fails.

        Args:
            now_ms: when.
            batch_size: requests in it.
            tokens: tokens computed.
            context_tokens: tokens read by attention.
            duration_ms: step time.
            kv_used_fraction: KV in use; None takes it from the requests that run.
            failed: whether it did.

        Returns:
            False where it makes no sense, which counts for nothing.
        """
        if not (batch_size >= 0 and tokens >= 0 and 0 <= duration_ms < math.inf):
            self.odd_events += 1
            return False
        if kv_used_fraction is None:
            capacity_tokens = self.facts.kv_capacity_tokens
            kv_used_fraction = min(self.requests.held_tokens / capacity_tokens, 1.0) if capacity_tokens else 0.0
        self._noted.append((now_ms, batch_size, tokens, context_tokens, duration_ms, kv_used_fraction, failed))
        if len(self._noted) == MOST_TIMES:
            self._sum_steps()
        return True

    def close(self, now_ms: float, limits: Limits, estimate: Sequence[float] | None) -> WindowMetrics:
        """Measurements since the window began, and the start of a new one.

        Args:
            now_ms: the present.
            limits: in force during the window.
            estimate: what a step is believed to cost, None for the facts' estimate.
        """
        self._sum_steps()
        self._carried.update(self.now, self.facts, estimate if estimate is not None else self.facts.estimate)
        window = metrics_of(self.now, self.requests, self.facts, self._carried, limits, now_ms)
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
        if self.keeps_details:
            ended_ms, batch_sizes, tokens, contexts, durations_ms, _, _ = zip(*noted, strict=True)
            began_ms = map(sub, ended_ms, durations_ms)
            self._steps.extend(zip(began_ms, batch_sizes, tokens, contexts, durations_ms, strict=True))
        self.now.add(noted, self.facts)

    def _known(self, tracked: Tracked | None) -> Tracked | None:
        if tracked is None:
            self.odd_events += 1
        return tracked
