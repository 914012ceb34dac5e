"""Triton's quick search, online: hill climbing over batch sizes that are powers of two, then the best for good.

Model Analyzer profiles each candidate by itself and climbs while throughput, its default objective, improves; here a
candidate is in force for 6 windows, the first of which still holds the work of the one before and is not counted.
Throughput is generated tokens per second of step time: per second of clock time it would be that of the arrivals, and
goodput would be that of the queue which the candidates before have left behind. A gain under 2 % is none.

Source: Triton Model Analyzer, documentation of the quick search mode.
"""

from __future__ import annotations

from dataclasses import dataclass, field

from batchpilot.core import Limits, WindowMetrics

WINDOWS_A_CANDIDATE = 6
GAIN = 1.02


@dataclass
class QuickRule:
    """The climb.

    Attributes:
        base: limits whose other fields are kept.
        low: smallest batch size.
        high: largest batch size.
        size: the candidate in force, or the best when done.
        tried: the sizes measured so far.
        best_size: the best so far, 0 before the first.
        best_throughput: its tokens per ms of step time.
        heard: windows of the candidate.
        tokens: generated in them, the first left out.
        busy_ms: their step time, the first left out.
        done: whether the climb is over.
    """

    base: Limits
    low: int
    high: int
    size: int
    tried: list[int] = field(default_factory=list)
    best_size: int = 0
    best_throughput: float = 0.0
    heard: int = 0
    tokens: float = 0.0
    busy_ms: float = 0.0
    done: bool = False

    def start(self) -> Limits:
        """The first candidate."""
        return self.base.replace(batch_size=self.size)

    def decide(self, window: WindowMetrics, limits: Limits) -> tuple[Limits, str]:
        """Count a window; after the candidate's last one, try a neighbour of the best, or stop.

        Args:
            window: the window; an idle one tells nothing.
            limits: the limits in force.
        """
        if self.done:
            return limits, f"found: {self.size} at {1000 * self.best_throughput:.0f} tokens/s"
        if window.steps > 0:
            self.heard += 1
            if self.heard > 1:
                self.tokens += window.generated_tokens
                self.busy_ms += window.busy_ms
        if self.heard < WINDOWS_A_CANDIDATE:
            return limits, f"measuring {self.size}: {self.heard} of {WINDOWS_A_CANDIDATE} windows"
        throughput = self.tokens / self.busy_ms if self.busy_ms else 0.0
        reason = f"{self.size} gave {1000 * throughput:.0f} tokens/s"
        self._climb(throughput)
        return limits.replace(batch_size=self.size), reason

    def _climb(self, throughput: float) -> None:
        if not self.tried or throughput > GAIN * self.best_throughput:
            self.best_size, self.best_throughput = self.size, throughput
        self.tried.append(self.size)
        self.heard, self.tokens, self.busy_ms = 0, 0.0, 0.0
        neighbours = (2 * self.best_size, self.best_size // 2)
        untried = [size for size in neighbours if self.low <= size <= self.high and size not in self.tried]
        self.done = not untried
        self.size = untried[0] if untried else self.best_size
