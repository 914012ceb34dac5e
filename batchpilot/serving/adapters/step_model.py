"""What a step of somebody else's engine costs, and what fits into a time. Times in ms, lengths in tokens.

Plain Python: asked once or twice a step, it must not wait for a compiler.
"""

from __future__ import annotations

import math
from collections.abc import Sequence

from batchpilot.serving.session.engine import step_ms
from batchpilot.serving.session.prediction import FEWEST_STEPS, OnlineLine

_STEPS_REMEMBERED = 200.0


class StepModel:
    """Step latency by a tuner's estimate where it has one, else by a line through the steps seen."""

    def __init__(self) -> None:
        self._line = OnlineLine(_STEPS_REMEMBERED)
        self.estimate: Sequence[float] | None = None

    @property
    def is_known(self) -> bool:
        """Whether anything can be said yet."""
        return self.estimate is not None or self._line.points >= FEWEST_STEPS

    def hear(self, tokens: int, duration_ms: float) -> None:
        """A step ended.

        Args:
            tokens: computed in it.
            duration_ms: its time.
        """
        self._line.observe(tokens, duration_ms)

    def step_ms(self, batch_size: int, tokens: int, context_tokens: int) -> float:
        """Latency of a step; NaN while nothing is known.

        Args:
            batch_size: its requests, >= 1.
            tokens: computed in it, >= 1.
            context_tokens: read by attention.
        """
        if self.estimate is not None:
            return step_ms(self.estimate, batch_size, tokens, context_tokens)
        return self._line.predict(tokens) if self.is_known else math.nan

    def most_tokens(self, batch_size: int, context_tokens: int, target_ms: float, budget: int) -> int:
        """Most tokens of a step that keeps a target; the budget while nothing is known or no step keeps it.

        Args:
            batch_size: its requests, >= 1.
            context_tokens: read by attention.
            target_ms: longest step.
            budget: never more, >= 1.
        """
        if not self.is_known or self.step_ms(batch_size, budget, context_tokens) <= target_ms:
            return budget
        if self.step_ms(1, 1, 0) > target_ms:
            return budget
        fits, exceeds = 1, budget
        while exceeds - fits > 1:
            middle = (fits + exceeds) // 2
            if self.step_ms(batch_size, middle, context_tokens) <= target_ms:
                fits = middle
            else:
                exceeds = middle
        return fits

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
