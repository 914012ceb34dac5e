"""The probe: which batch size to measure next, given the scores so far. A pure state machine; it reads no metrics.

Growth goes from the first size, the configured initial one, by a factor, 8, 16, 32 ..., until the score has dropped
(below 0.8 of the best, from the third attempt on), the size is too large, memory is unsafe for the next, the cap is
met, the attempts are used up, or the batch size no longer is what restricts the engine. Where the first size already
was too large, or every larger one scored worse, the probe goes down from it by the same factor: until a size is
acceptable in the first case, as long as scores rise in the second.

Bisection then looks between the best size and the first one above it that is not acceptable (score at most 0.95 of the
best), or that is unsafe: a mid point above 0.95 of the best becomes the lower end, any other the upper end, five times
at most. The probe's result is the size with the highest score of all it measured.

Source: dynamic batch tuner document, probing (SPEC 1). The document accepts the mid point itself as the result; a mid
point at 0.96 of the best only says that the plateau goes on, so we keep the best one measured. The document's prose
starts at the minimum, its table and listings at the initial size; the way down is ours.
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
    """Growth, the way down where it is needed, then bisection.

    Attributes:
        size: the size to measure now.
        highest: no size above this is proposed.
        lowest: no size below this is proposed.
        growth_factor: factor from one size to the next while growing or going down, > 1.
        max_attempts: most sizes tried before the bisection.
        sizes: every size proposed, in order, the present one included.
        bisections: mid points proposed so far.
        low: lower end of the bisection, an accepted size; 0 before it.
        high: upper end, a size not accepted; 0 before it.
        unsafe: the size at which memory ended growth; 0 if it did not.
        verdict: why the search for larger and smaller sizes ended, for people.
    """

    size: int
    highest: int
    lowest: int = 1
    growth_factor: float = 2.0
    max_attempts: int = 10
    sizes: list[int] = field(default_factory=list)
    bisections: int = 0
    low: int = 0
    high: int = 0
    unsafe: int = 0
    verdict: str = ""

    def __post_init__(self) -> None:
        if not self.sizes:
            self.sizes.append(self.size)

    def advance(
        self,
        scores: Mapping[int, float],
        is_safe: Callable[[int], bool],
        size_restricts: bool = True,
        too_large: bool = False,
    ) -> int | None:
        """Hear that the present size has been measured, or given up, and say which one is next.

        Args:
            scores: score by size; 0 for a size that is not acceptable, none for one that could not be measured.
            is_safe: whether memory allows a size.
            size_restricts: whether the batch size was what restricted the engine; if not, a larger one changes nothing.
            too_large: whether the present size needs too much time or memory, so that only smaller ones may do.

        Returns:
            The next size to measure; None when the probe is done.
        """
        if self.low:
            if scores.get(self.size, 0.0) > ACCEPTED * self._best_score(scores):
                self.low = self.size
            else:
                self.high = self.size
            return self._bisected(is_safe)
        following = None
        if self.size >= self.sizes[0]:
            following = self._grown(scores, is_safe, size_restricts, too_large)
        if following is None:
            following = self._descended(scores, too_large)
        if following is not None:
            return self._propose(following)
        best = self.best(scores)
        if best is None:
            return None
        self.high = self._first_worse_above(best, scores)
        self.low = best if self.high else 0
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

    def _grown(
        self, scores: Mapping[int, float], is_safe: Callable[[int], bool], size_restricts: bool, too_large: bool
    ) -> int | None:
        """The next larger size; None when growth ends here."""
        score = scores.get(self.size)
        larger = min(self.highest, max(self.size + 1, round(self.size * self.growth_factor)))
        if too_large:
            self.verdict = f"{self.size} is too large"
        elif len(self.sizes) >= FIRST_ATTEMPT_TO_STOP and score is not None and score < DROP * self._best_score(scores):
            self.verdict = f"the score dropped at {self.size}"
        elif not size_restricts:
            self.verdict = f"size {self.size} is not what restricts the engine"
        elif self.size >= self.highest:
            self.verdict = f"the cap of {self.highest} was met"
        elif len(self.sizes) >= self.max_attempts:
            self.verdict = f"{self.max_attempts} attempts were made"
        elif not is_safe(larger):
            self.verdict = f"memory is not safe at {larger}"
            self.unsafe = larger
        else:
            return larger
        return None

    def _descended(self, scores: Mapping[int, float], too_large: bool) -> int | None:
        """The next smaller size, where there is reason to look below the smallest tried; None where there is none."""
        smallest = min(self.sizes)
        score = scores.get(smallest, 0.0)
        if score > 0.0:
            larger = [scores.get(size, 0.0) for size in self.sizes if size > smallest]
            wanted = score > max(larger, default=score) and any(0.0 < other <= ACCEPTED * score for other in larger)
        else:
            wanted = too_large and self.size == smallest
        if not wanted or smallest <= self.lowest or len(self.sizes) >= self.max_attempts:
            return None
        return max(self.lowest, min(smallest - 1, round(smallest / self.growth_factor)))

    def _first_worse_above(self, size: int, scores: Mapping[int, float]) -> int:
        """The smallest size tried above one that is not acceptable beside it, or was unsafe; 0 without any."""
        limit = ACCEPTED * scores[size]
        above = sorted(tried for tried in self.sizes if tried > size)
        return next((tried for tried in above if scores.get(tried, 0.0) <= limit), self.unsafe)

    def _bisected(self, is_safe: Callable[[int], bool]) -> int | None:
        """The next mid point; None when the ends meet or the bisections are used up."""
        while self.high - self.low > 1 and self.bisections < MAX_BISECTIONS:
            middle = (self.low + self.high) // 2
            if middle in self.sizes:
                # Tried while growing, and not worse than the best: the first worse one is the upper end.
                self.low = middle
            elif is_safe(middle):
                self.bisections += 1
                return self._propose(middle)
            else:
                self.high = middle
        return None

    def _propose(self, size: int) -> int:
        self.size = size
        self.sizes.append(size)
        return size

    def _best_score(self, scores: Mapping[int, float]) -> float:
        return max((scores.get(size, 0.0) for size in self.sizes), default=0.0)
