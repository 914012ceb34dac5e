"""Netflix's adaptive concurrency limits (Gradient2, Vegas) on a server's batch size. Times in ms.

Their limit bounds the requests in flight; ours bounds those running, so what the limit holds back waits in the queue
instead of being refused. Round-trip time must not count that wait: a limit that hears the queue it makes would tighten
until nothing runs. Windows tell TTFT (which holds the wait) and TPOT, so the latency of a request is its TPOT: the time
it spent running, per token, which also takes out that requests ask for different lengths. The sample of a window is the
median TPOT of the requests that finished in it.

As the library's own `WindowedLimit` does, a limit moves once a sample window of at least 10 requests; shorter windows
are pooled, weighted by their requests. With `refuse`, the queue is bounded too, as in the library, to the 4 requests
that Gradient2 calls its queue (4 mean prompts in tokens), so that limit + 4 is the admitted concurrency.

Source: github.com/Netflix/concurrency-limits (Apache-2.0), read for its rules; and "Performance Under Load" (2018).
"""

from __future__ import annotations

import math
from dataclasses import dataclass, field
from typing import Any, ClassVar, NamedTuple, Protocol

from batchpilot.core import Limits, WindowMetrics

INITIAL_LIMIT = 20.0
MIN_SAMPLES = 10
QUEUED_REQUESTS = 4


class Sample(NamedTuple):
    """What a sample window tells.

    Attributes:
        latency_ms: median time per token of its requests, > 0.
        in_flight: most requests that ran.
        requests: requests that finished, >= 10.
        dropped: whether a step failed.
    """

    latency_ms: float
    in_flight: float
    requests: int
    dropped: bool


class LimitAlgorithm(Protocol):
    """How the limit follows the samples; a dataclass of plain values.

    Attributes:
        limit: the present limit, a fraction included.
    """

    __dataclass_fields__: ClassVar[dict[str, Any]]
    limit: float

    def update(self, sample: Sample) -> str:
        """Move the limit and say why.

        Args:
            sample: a sample window.
        """


@dataclass
class Pool:
    """Windows that are not yet a sample.

    Attributes:
        requests: finished requests.
        latency_sum_ms: their latencies added up.
        in_flight: most requests that ran.
        dropped: whether a step failed.
    """

    requests: int = 0
    latency_sum_ms: float = 0.0
    in_flight: float = 0.0
    dropped: bool = False

    def add(self, window: WindowMetrics) -> Sample | None:
        """Take a window in; once there are 10 requests, hand the sample out and start anew.

        Args:
            window: the window.
        """
        self.in_flight = max(self.in_flight, window.running, window.batch_size_mean)
        self.dropped = self.dropped or window.failures > 0
        if window.completions > 0 and window.tpot_ms_p50 > 0:
            self.requests += window.completions
            self.latency_sum_ms += window.tpot_ms_p50 * window.completions
        if self.requests < MIN_SAMPLES:
            return None
        sample = Sample(self.latency_sum_ms / self.requests, self.in_flight, self.requests, self.dropped)
        self.requests, self.latency_sum_ms, self.in_flight, self.dropped = 0, 0.0, 0.0, False
        return sample


@dataclass
class ConcurrencyRule:
    """A concurrency limit as batch size.

    Attributes:
        base: limits whose other fields are kept.
        algorithm: Gradient2 or Vegas.
        refuse: whether the queue is bounded to 4 requests.
        pool: windows not yet sampled.
        prompts: arrivals so far.
        prompt_tokens: their prompt tokens.
    """

    base: Limits
    algorithm: LimitAlgorithm
    refuse: bool = False
    pool: Pool = field(default_factory=Pool)
    prompts: int = 0
    prompt_tokens: int = 0

    def start(self) -> Limits:
        """The base limits at the initial limit."""
        return self._limits()

    def decide(self, window: WindowMetrics, limits: Limits) -> tuple[Limits, str]:
        """Pool the window, and move once it completes a sample.

        Args:
            window: the window.
            limits: the limits in force.
        """
        self.prompts += window.arrivals
        self.prompt_tokens += window.arrived_prompt_tokens
        sample = self.pool.add(window)
        if sample is None:
            return limits, f"{self.pool.requests} of {MIN_SAMPLES} requests sampled"
        reason = self.algorithm.update(sample)
        return self._limits(), reason

    def _limits(self) -> Limits:
        limits = self.base.replace(batch_size=int(self.algorithm.limit))
        if not self.refuse or not self.prompts:
            return limits
        return limits.replace(max_queued_tokens=math.ceil(QUEUED_REQUESTS * self.prompt_tokens / self.prompts))
