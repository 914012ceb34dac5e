"""The probe: which batch size to measure next, given the scores so far. A pure state machine; it reads no metrics.

Growth goes from the first size by a factor, 1, 2, 4, 8 ..., until the score has dropped (below 0.8 of the best, from
the third attempt on), memory is unsafe, the cap is met, the attempts are used up, or the batch size no longer is what
restricts the engine. Bisection then looks between the best size and the first one above it that is not acceptable
(score at most 0.95 of the best), or that is unsafe: a mid point above 0.95 of the best becomes the lower end, any
other the upper end, five times at most. The probe's result is the size with the highest score of all it measured.

Source: dynamic batch tuner document, probing (SPEC 1). The document accepts the mid point itself as the result; a mid
point at 0.96 of the best only says that the plateau goes on, so we keep the best one measured.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import asdict, dataclass, field
from typing import Any

DROP = 0.8
ACCEPTED = 0.95
MAX_BISECTIONS = 5
FIRST_ATTEMPT_TO_STOP = 3


@dataclass(slots=True)
class Probe:
    """Growth, then bisection.

    Attributes:
        size: the size to measure now.
        highest: no size above this is proposed.
        growth_factor: factor from one size to the next while growing, > 1.
        max_attempts: most sizes tried while growing.
        sizes: every size proposed, in order, the present one included.
        bisections: mid points proposed so far.
        low: lower end of the bisection, an accepted size; 0 while growing.
        high: upper end, a size not accepted; 0 while growing.
        verdict: why growth ended, for people.
    """

    size: int
    highest: int
    growth_factor: float = 2.0
    max_attempts: int = 10
    sizes: list[int] = field(default_factory=list)
    bisections: int = 0
    low: int = 0
    high: int = 0
    verdict: str = ""

    def __post_init__(self) -> None:
        if not self.sizes:
            self.sizes.append(self.size)

    def advance(
        self, scores: Mapping[int, float], is_safe: Callable[[int], bool], size_restricts: bool = True
    ) -> int | None:
        """Hear that the present size has been measured, or given up, and say which one is next.

        Args:
            scores: score by size; 0 for a size that is not acceptable, none for one that could not be measured.
            is_safe: whether memory allows a size.
            size_restricts: whether the batch size was what restricted the engine; if not, a larger one changes nothing.

        Returns:
            The next size to measure; None when the probe is done.
        """
        if self.low:
            if scores.get(self.size, 0.0) > ACCEPTED * self._best_score(scores):
                self.low = self.size
            else:
                self.high = self.size
        else:
            larger = self._grown(scores, is_safe, size_restricts)
            if larger is not None:
                return self._propose(larger)
        return self._bisected(is_safe) if self.low else None

    def best(self, scores: Mapping[int, float]) -> int | None:
        """The size with the highest score, the one tried first among equals; None when none is acceptable.

        Args:
            scores: as for `advance`.
        """
        acceptable = [size for size in self.sizes if scores.get(size, 0.0) > 0.0]
        return max(acceptable, key=lambda size: scores[size]) if acceptable else None

    def state_dict(self) -> dict[str, Any]:
        """The probe as plain data, the constructor's arguments."""
        return asdict(self)

    def _grown(self, scores: Mapping[int, float], is_safe: Callable[[int], bool], size_restricts: bool) -> int | None:
        """The next larger size; None, with the bisection prepared, when growth ends here."""
        score, unsafe = scores.get(self.size), 0
        larger = min(self.highest, max(self.size + 1, round(self.size * self.growth_factor)))
        if len(self.sizes) >= FIRST_ATTEMPT_TO_STOP and score is not None and score < DROP * self._best_score(scores):
            self.verdict = f"the score dropped at {self.size}"
        elif not size_restricts:
            self.verdict = f"size {self.size} is not what restricts the engine"
        elif self.size >= self.highest:
            self.verdict = f"the cap of {self.highest} was met"
        elif len(self.sizes) >= self.max_attempts:
            self.verdict = f"{self.max_attempts} attempts were made"
        elif not is_safe(larger):
            self.verdict = f"memory is not safe at {larger}"
            unsafe = larger
        else:
            return larger
        best = self.best(scores)
        if best is not None:
            above = (size for size in self.sizes if size > best)
            limit = ACCEPTED * scores[best]
            self.high = next((size for size in above if scores.get(size, 0.0) <= limit), unsafe)
            self.low = best if self.high else 0
        return None

    def _bisected(self, is_safe: Callable[[int], bool]) -> int | None:
        """The next mid point; None when the ends meet or the bisections are used up."""
        while self.high - self.low > 1 and self.bisections < MAX_BISECTIONS:
            middle = (self.low + self.high) // 2
            if is_safe(middle):
                self.bisections += 1
                return self._propose(middle)
            self.high = middle
        return None

    def _propose(self, size: int) -> int:
        self.size = size
        self.sizes.append(size)
        return size

    def _best_score(self, scores: Mapping[int, float]) -> float:
        return max((scores.get(size, 0.0) for size in self.sizes), default=0.0)
