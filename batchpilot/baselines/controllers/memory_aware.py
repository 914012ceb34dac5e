"""Memory-aware and SLA-constrained dynamic batching: the smaller of what fits and what is fast enough. Times in ms.

Memory: the largest b for which the tokens of b requests stay under the KV capacity with a chosen probability, lengths
independent, their sum normal: b mean + z deviation sqrt(b) <= capacity. SLA: a noisy binary search of the batch size at
which the decode latency meets its target.

The paper knows mean and variance of the lengths; a server hears windows. The mean prompt is tokens over arrivals; its
variance follows from how far window means scatter, times their arrivals; the mean output is generated tokens over
completions, its deviation taken to equal its mean (a geometric length), which windows do not tell. Old windows fade by
1 % a window. The decode latency is the mean step time. Of its search constants the tolerance (5 % of the target), the
step (16) and the correction (4) are ours.

Source: Pang, Li and Wang, "Optimizing LLM Inference Throughput via Memory-aware and SLA-constrained Dynamic Batching"
(arXiv 2503.05248), Algorithms 1 and 2.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from statistics import NormalDist

from batchpilot.baselines.rule import known_target
from batchpilot.core import Limits, WindowMetrics

OVERFLOW_PROBABILITY = 0.05
TOLERANCE = 0.05
STEP, CORRECTION = 16.0, 4.0
FADING = 0.99
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
        windows: windows with arrivals; this and the following fade.
        arrivals: requests that arrived.
        prompt_tokens: their prompt tokens.
        squares: the square of each window's prompt tokens over its arrivals.
        completions: requests that finished.
        generated: tokens generated.
    """

    base: Limits
    low: int
    high: int
    tpot_ms: float | None = None
    search_low: float = 0.0
    search_high: float = 0.0
    windows: float = 0.0
    arrivals: float = 0.0
    prompt_tokens: float = 0.0
    squares: float = 0.0
    completions: float = 0.0
    generated: float = 0.0

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
        self.hear_lengths(window)
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
        unknown = self.completions < MIN_COMPLETIONS or not self.arrivals or not self.prompt_tokens + self.generated
        if not capacity_tokens or unknown:
            return None
        prompt, output = self.prompt_tokens / self.arrivals, self.generated / self.completions
        scatter = max(0.0, self.squares - prompt * self.prompt_tokens) / max(self.windows - 1, 1)
        return largest_fitting(capacity_tokens, prompt + output, math.sqrt(scatter + output**2))

    def hear_lengths(self, window: WindowMetrics) -> None:
        """Take the lengths of a window into the fading sums.

        Args:
            window: the window.
        """
        tokens = window.arrived_prompt_tokens
        arrived = window.arrivals > 0
        self.windows = FADING * self.windows + arrived
        self.arrivals = FADING * self.arrivals + window.arrivals
        self.prompt_tokens = FADING * self.prompt_tokens + (tokens if arrived else 0)
        self.squares = FADING * self.squares + (tokens**2 / window.arrivals if arrived else 0)
        self.completions = FADING * self.completions + window.completions
        self.generated = FADING * self.generated + window.generated_tokens
