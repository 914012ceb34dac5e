"""What a step of somebody else's engine costs, and what fits into a time. Times in ms, lengths in tokens.

Plain Python: asked once or twice a step, it must not wait for a compiler.
"""

from __future__ import annotations

import math
from collections.abc import Sequence

from batchpilot.serving.session.engine import step_ms
from batchpilot.serving.session.prediction import FEWEST_STEPS, OnlineLine

_STEPS_REMEMBERED = 200.0
_KEPT = math.exp(-1.0 / 100.0)

FEWEST_JUDGED = 30
"""Steps before an error is called usual."""

MOST_CAUTION = 1.5
"""Steps that take longer still are not scatter; whoever estimates has to learn them."""


OUT_OF_REACH = 2.0
"""Times the shortest step there can be, where none is short enough."""


class StepModel:
    """Step latency by a tuner's estimate where it has one, else by a line through the steps seen.

    Attributes:
        estimate: of a tuner, None for none.
        predicted_total_ms: of all steps heard, what was predicted of each before; its time where nothing was.
    """

    def __init__(self) -> None:
        self._line = OnlineLine(_STEPS_REMEMBERED)
        self._judged = 0
        self._predicted_ms = self._taken_ms = self._error_ms = 0.0
        self.predicted_total_ms = 0.0
        self.estimate: Sequence[float] | None = None

    @property
    def is_known(self) -> bool:
        """Whether anything can be said yet."""
        return self.estimate is not None or self._line.points >= FEWEST_STEPS

    @property
    def caution(self) -> float:
        """What a prediction is to be multiplied with, so that it is missed no more often than kept: the usual error.

        From what the latest steps took over what was predicted of them, and how far they scatter about that.
        """
        if self._judged < FEWEST_JUDGED:
            return 1.0
        return min(max((self._taken_ms + self._error_ms) / self._predicted_ms, 1.0), MOST_CAUTION)

    def hear(self, batch_size: int, tokens: int, context_tokens: int, duration_ms: float) -> None:
        """A step ended; it is held against what was predicted of it, then learned from.

        Args:
            batch_size: its requests.
            tokens: computed in it, >= 1.
            context_tokens: read by attention.
            duration_ms: its time.
        """
        predicted_ms = self.step_ms(max(batch_size, 1), tokens, context_tokens)
        self.predicted_total_ms += predicted_ms if 0.0 < predicted_ms < math.inf else duration_ms
        if 0.0 < predicted_ms < math.inf and 0.0 <= duration_ms < math.inf:
            self._judged += 1
            usual = self._taken_ms / self._predicted_ms if self._predicted_ms else 1.0
            self._predicted_ms = _KEPT * self._predicted_ms + predicted_ms
            self._taken_ms = _KEPT * self._taken_ms + duration_ms
            self._error_ms = _KEPT * self._error_ms + abs(duration_ms - usual * predicted_ms)
        self._line.observe((tokens, duration_ms))

    def step_ms(self, batch_size: int, tokens: int, context_tokens: int) -> float:
        """Latency of a step, in the mean; NaN while nothing is known.

        Args:
            batch_size: its requests, >= 1.
            tokens: computed in it, >= 1.
            context_tokens: read by attention.
        """
        if self.estimate is not None:
            return step_ms(self.estimate, batch_size, tokens, context_tokens)
        return self._line.predict(tokens) if self.is_known else math.nan

    def most_tokens(
        self, batch_size: int, context_tokens: int, target_ms: float, budget: int, most_requests: int | None = None
    ) -> int:
        """Most tokens of a step that keeps a target at its batch size; the budget where the target is no guide.

        As in the simulated scheduler: a step that is too long because its batch is small, not large, may grow as long
        as it takes no more time. A target that no batch size keeps becomes twice the shortest step: were it ignored,
        long steps would make it seem out of reach for good. Of a batch that is too large as many requests as keep it
        have room; the others wait.

        Args:
            batch_size: its requests, >= 1.
            context_tokens: read by attention.
            target_ms: longest step.
            budget: never more, >= 1.
            most_requests: largest batch size that there may be; None for this one.
        """
        if not self.is_known or self.step_ms(batch_size, budget, context_tokens) <= target_ms:
            return budget
        if batch_size <= budget and self.step_ms(batch_size, batch_size, context_tokens) <= target_ms:
            fits = self._largest(batch_size, context_tokens, target_ms, budget)
            return fits if batch_size > 1 or self._is_worth_cutting(fits, budget, context_tokens) else budget
        if batch_size == 1:
            return budget
        shortest_ms = min(self.step_ms(size, size, 0) for size in _sizes(most_requests or batch_size))
        if shortest_ms > target_ms:
            return self.most_tokens(batch_size, context_tokens, OUT_OF_REACH * shortest_ms, budget, most_requests)
        so_far_ms = self.step_ms(batch_size - 1, batch_size - 1, context_tokens)
        if batch_size <= budget and self.step_ms(batch_size, batch_size, context_tokens) <= so_far_ms:
            return self._largest(batch_size, context_tokens, so_far_ms, budget)
        return min(self._most_requests_within(batch_size, context_tokens, target_ms), budget)

    def _most_requests_within(self, batch_size: int, context_tokens: int, target_ms: float) -> int:
        """Requests, one token each, whose step keeps a target that the whole batch misses: as many as there may be."""
        sizes = reversed(_sizes(batch_size - 1))
        fits = next((size for size in sizes if self.step_ms(size, size, context_tokens) <= target_ms), 1)
        exceeds = batch_size
        while exceeds - fits > 1:
            middle = (fits + exceeds) // 2
            if self.step_ms(middle, middle, context_tokens) <= target_ms:
                fits = middle
            else:
                exceeds = middle
        return fits

    def _largest(self, batch_size: int, context_tokens: int, target_ms: float, budget: int) -> int:
        """Most tokens within a target that one token each keeps."""
        fits, exceeds = batch_size, budget + 1
        while exceeds - fits > 1:
            middle = (fits + exceeds) // 2
            if self.step_ms(batch_size, middle, context_tokens) <= target_ms:
                fits = middle
            else:
                exceeds = middle
        return fits

    def _is_worth_cutting(self, tokens: int, budget: int, context_tokens: int) -> bool:
        """Whether a request alone is computed at half its speed at least in steps of so many tokens."""
        return 2 * tokens * self.step_ms(1, budget, context_tokens) >= budget * self.step_ms(1, tokens, context_tokens)

    def fastest_ms(self, prompt_tokens: int) -> float:
        """The least time to a first token, whatever runs beside it; 0 while nothing is known.

        Args:
            prompt_tokens: left to compute of its prompt, >= 1.
        """
        if self.estimate is None:
            return self._line.predict(prompt_tokens) if self.is_known else 0.0
        p_max, _, _, w_0, w_1, tau_0, tau_b, tau_s, *_ = self.estimate
        return tau_0 + tau_b + w_0 / p_max + prompt_tokens * (w_1 / p_max + tau_s)

    def prefill_ms(self, prompt_tokens: int, running: int, context_tokens: int, full_step: int) -> float:
        """Time to the first token of a request that is let in now, beside those that run; NaN while nothing is known.

        Args:
            prompt_tokens: left to compute of its prompt, >= 1.
            running: requests beside it, each computing one token a step.
            context_tokens: read by attention for them.
            full_step: tokens of a full step.
        """
        room = max(full_step - running, 1)
        whole, last = divmod(prompt_tokens, room)
        time_ms = whole * self.step_ms(running + 1, running + room, context_tokens) if whole else 0.0
        return time_ms + (self.step_ms(running + 1, running + last, context_tokens) if last else 0.0)


def _sizes(most: int) -> list[int]:
    """Batch sizes to try: the powers of two below the largest, and the largest."""
    return [2**k for k in range(most.bit_length()) if 2**k < most] + [most]
