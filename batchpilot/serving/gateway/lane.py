"""One engine of the upstream: its gate, its tuner and what was learned of it. Times in ms."""

from __future__ import annotations

import math
from collections import deque
from collections.abc import Mapping
from typing import Any

from batchpilot.core import Limits
from batchpilot.core.tenants import TenantTerms
from batchpilot.serving.gateway.gate import Gate
from batchpilot.serving.gateway.late_log import LateLog
from batchpilot.serving.gateway.observer import Observer
from batchpilot.serving.gateway.steps import SeenStep
from batchpilot.serving.gateway.upstream_metrics import UpstreamMetrics
from batchpilot.serving.recording import StepRecorder
from batchpilot.serving.session.session import TunerSession


class Lane:
    """What requests to one engine pass: nothing of it is shared with another engine's.

    Args:
        session: of the engine's tuner; whoever closes the lane closes it.
        recorder: hears the engine's steps.
        cache_tokens: what its KV cache holds, None for unknown.
        upstream: name of the engine's upstream in recordings, "" where there is but one.
        late_log: hears of requests that were late or failed, None for nobody.
        terms: of tenants, by user.

    Attributes:
        name: the engine's, "" where the upstream has but one.
        session: of its tuner.
        gate: who may go to it.
        observer: what came of those who went.
        reading: what its metrics last said, None where they say nothing.
    """

    def __init__(
        self,
        session: TunerSession,
        recorder: StepRecorder,
        cache_tokens: int | None = None,
        upstream: str = "",
        late_log: LateLog | None = None,
        terms: Mapping[str, TenantTerms] | None = None,
    ) -> None:
        self.name = ""
        self._upstream = upstream
        self.session = session
        self.gate = Gate(self._limits, lambda: session.now_ms, cache_tokens, terms)
        self.observer = Observer(session, self.gate, self._record, late_log, upstream)
        self.reading: UpstreamMetrics | None = None
        self._recorder = recorder
        self._others: deque[int] = deque([0, 0], maxlen=2)

    @property
    def requests_of_others(self) -> int:
        """Requests at the engine that came another way: the smaller of two readings, lest one came amid a change."""
        return min(self._others)

    def hear_metrics(self, reading: UpstreamMetrics | None) -> None:
        """The engine's own metrics have been read.

        Args:
            reading: what they said, None where nothing.
        """
        self.reading = reading
        known = reading is not None and not math.isnan(reading.kv_used_fraction)
        self.observer.kv_used_fraction = reading.kv_used_fraction if reading is not None and known else None
        there = reading.running + reading.waiting if reading is not None else 0
        self._others.append(max(there - self.gate.texts, 0))

    def sweep(self) -> None:
        """Close windows whose time is up, and tell those no who wait in vain."""
        self.session.tick()
        self.gate.sweep()

    def status(self) -> dict[str, Any]:
        """The tuner, the gate and the outcomes as one flat dictionary, limits and outcomes within."""
        gate, reading, observer = self.gate, self.reading, self.observer
        return {
            **self.session.status(),
            "upstream_running": reading.running if reading else None,
            "upstream_waiting": reading.waiting if reading else None,
            "upstream_kv_used_fraction": observer.kv_used_fraction,
            "requests_of_others": self.requests_of_others,
            "running": len(gate.inside),
            "waiting": len(gate.line),
            "queued_tokens": gate.queued_tokens,
            "cache_tokens": gate.cache.capacity_tokens if math.isfinite(gate.cache.capacity_tokens) else None,
            "predicted_ttft_s": gate.predicted_ttft_ms(1) / 1000.0,
            "predicted_tpot_ms": gate.service.token_ms(gate.texts + 1),
            "ended": dict(observer.ended),
            "kept_promises": observer.figures.kept_promises,
            **observer.figures.percentiles(),
            "last_fault": observer.last_fault,
            "output_tokens": observer.output_tokens,
        }

    def _limits(self) -> Limits:
        """The tuner's limits, less the places that others take at the engine."""
        limits, others = self.session.limits(), self.requests_of_others
        return limits.replace(batch_size=max(limits.batch_size - others, 1)) if others else limits

    def _record(self, step: SeenStep) -> None:
        where = " ".join(filter(None, (self._upstream, self.name)))
        self._recorder.hear(step.batch_size, step.tokens, step.context_tokens, step.duration_ms, where)
