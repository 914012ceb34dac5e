"""Memory-aware and SLA-constrained dynamic batching: the smaller of what fits and what is fast enough. Times in ms.

Memory: the largest b for which the tokens of b requests stay under the KV capacity with a chosen probability, lengths
independent, their sum normal: b mean + z deviation sqrt(b) <= capacity. SLA: a noisy binary search of the batch size at
which the decode latency meets its target.

The paper knows mean and variance of the lengths; a server hears windows. The mean prompt is tokens over arrivals; its
variance follows from how far window means scatter, times their arrivals; the mean output is generated tokens over
completions, its deviation taken to equal its mean (a geometric length), which windows do not tell. The decode latency
is the mean step time. Of its search constants the tolerance (5 % of the target), the step (16) and the correction (4)
are ours.

Source: Pang, Li and Wang, "Optimizing LLM Inference Throughput via Memory-aware and SLA-constrained Dynamic Batching"
(arXiv 2503.05248), Algorithms 1 and 2.
"""

from __future__ import annotations

import math
from dataclasses import dataclass, field
from statistics import NormalDist

from batchpilot.baselines.rule import known_target
from batchpilot.core import Limits, WindowMetrics

OVERFLOW_PROBABILITY = 0.05
TOLERANCE = 0.05
STEP, CORRECTION = 16.0, 4.0
KEPT_WINDOWS = 100
MIN_COMPLETIONS = 10
_Z = NormalDist().inv_cdf(1 - OVERFLOW_PROBABILITY)


def largest_fitting(capacity_tokens: float, mean_tokens: float, deviation_tokens: float) -> int:
    """The largest batch whose tokens stay within the capacity with 95 % probability, 0 if not even one does.

    Args:
        capacity_tokens: KV tokens that fit, >= 0.
        mean_tokens: mean length of a request, > 0.
        deviation_tokens: its standard deviation, >= 0.
    """
    spread = _Z * deviation_tokens
    root = (math.sqrt(spread**2 + 4 * mean_tokens * capacity_tokens) - spread) / (2 * mean_tokens)
    return math.floor(root**2 * (1 + 1e-12))


@dataclass
class MemoryAwareRule:
    """Both parts and what they know.

    Attributes:
        base: limits whose other fields are kept.
        low: smallest batch size.
        high: largest batch size.
        tpot_ms: target of the decode latency; None takes the windows'.
        search_low: lower end of the search.
        search_high: upper end of the search.
        lengths: arrivals, their prompt tokens, completions and generated tokens of the last 100 windows.
    """

    base: Limits
    low: int
    high: int
    tpot_ms: float | None = None
    search_low: float = 0.0
    search_high: float = 0.0
    lengths: list[list[float]] = field(default_factory=list)

    def __post_init__(self) -> None:
        if not self.search_high:
            self.search_low, self.search_high = float(self.low), float(self.high)

    def start(self) -> Limits:
        """The middle of the bounds, as the search begins."""
        return self.base.replace(batch_size=(self.low + self.high) // 2)

    def decide(self, window: WindowMetrics, limits: Limits) -> tuple[Limits, str]:
        """Narrow the search, estimate the lengths, take the smaller size.

        Args:
            window: the window.
            limits: the limits in force.
        """
        self.lengths.append(
            [window.arrivals, window.arrived_prompt_tokens, window.completions, window.generated_tokens]
        )
        del self.lengths[:-KEPT_WINDOWS]
        fast = self.fast_enough(window)
        fits = self.fitting(window.kv_capacity_tokens)
        size = max(self.low, min(fast, self.high if fits is None else fits))
        known = "memory unknown" if fits is None else f"memory holds {fits}"
        return limits.replace(batch_size=size), f"{known}, search within {self.search_low:.0f}-{self.search_high:.0f}"

    def fast_enough(self, window: WindowMetrics) -> int:
        """The SLA part: the middle of the search after this window.

        Args:
            window: the window; without a step or a target the search stays as it is.
        """
        target = known_target(self.tpot_ms, window.tpot_target_ms)
        latency, size = window.step_ms_mean, window.batch_size_mean
        if target is not None and window.steps > 0 and not math.isnan(latency):
            if latency > (1 + TOLERANCE) * target:
                self.search_high = max(size, self.search_low + STEP)
                self.search_low = self.search_low - CORRECTION
            elif latency < (1 - TOLERANCE) * target:
                self.search_low = min(size, self.search_high - STEP)
                self.search_high = self.search_high + CORRECTION
            else:
                self.search_low, self.search_high = size - STEP / 2, size + STEP / 2
            self.search_low = max(self.low, min(self.search_low, self.high))
            self.search_high = max(self.low, min(self.search_high, self.high))
        return int((self.search_low + self.search_high) / 2)

    def fitting(self, capacity_tokens: int) -> int | None:
        """The memory part; None while lengths or capacity are unknown.

        Args:
            capacity_tokens: KV tokens that fit, 0 if unknown.
        """
        arrivals, prompt_tokens, completions, generated = map(sum, zip(*self.lengths, strict=True))
        if not capacity_tokens or completions < MIN_COMPLETIONS or not arrivals or not prompt_tokens + generated:
            return None
        prompt, output = prompt_tokens / arrivals, generated / completions
        known = [(row[0], row[1] / row[0]) for row in self.lengths if row[0]]
        scatter = sum(count * (mean - prompt) ** 2 for count, mean in known) / max(len(known) - 1, 1)
        return largest_fitting(capacity_tokens, prompt + output, math.sqrt(scatter + output**2))
