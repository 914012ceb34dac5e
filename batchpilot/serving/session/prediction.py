"""How long a request that came now would wait for its first token, learned from what the server tells. Times in ms."""

from __future__ import annotations

import math
from collections.abc import Sequence

from batchpilot.core.limits import Limits
from batchpilot.serving.session.engine import step_ms
from batchpilot.serving.session.requests import InFlight, Tracked

FEWEST_STEPS, FEWEST_REQUESTS = 5, 3
"""Below this nothing is predicted."""

MOST_NOTED = 256
"""Steps and first tokens that are noted at most before they are learned from, asked or not."""

_MOST_CHUNK_TOKENS = 2**16
"""A step without a token budget computes a prompt at once; longer ones are predicted as several."""


class OnlineLine:
    """A straight line through recent points, older ones fading.

    Args:
        memory: points after which one counts for 1/e.
    """

    def __init__(self, memory: float) -> None:
        self._keep = math.exp(-1.0 / memory)
        self._sums = (0.0, 0.0, 0.0, 0.0, 0.0)
        self.points = 0

    def observe(self, *points: tuple[float, float]) -> None:
        """Hear points.

        Args:
            *points: place and value of each, in order.
        """
        keep, (n, sum_x, sum_y, sum_xx, sum_xy) = self._keep, self._sums
        for x, y in points:
            n = keep * n + 1.0
            sum_x = keep * sum_x + x
            sum_y = keep * sum_y + y
            sum_xx = keep * sum_xx + x * x
            sum_xy = keep * sum_xy + x * y
        self._sums = (n, sum_x, sum_y, sum_xx, sum_xy)
        self.points += len(points)

    def predict(self, x: float) -> float:
        """The line's value, neither falling with x nor below zero; NaN before the first point.

        Args:
            x: the place.
        """
        if not self.points:
            return math.nan
        n, sum_x, sum_y, sum_xx, sum_xy = self._sums
        mean_x, mean_y = sum_x / n, sum_y / n
        spread = sum_xx / n - mean_x * mean_x
        slope = (sum_xy / n - mean_x * mean_y) / spread if spread > 1e-9 * (1.0 + mean_x * mean_x) else 0.0
        return max(mean_y + max(slope, 0.0) * (x - mean_x), 0.0)


class TTFTPredictor:
    """Predicted time to first token.

    A server that tells its steps is predicted by what steps cost, how many the prompts before and its own take, and how
    long places take to become free where the batch is full. One that does not is predicted by how the TTFT of its
    requests followed the prompt tokens before them. What it hears is noted, and learned from when it is asked.
    """

    def __init__(self) -> None:
        self._step = OnlineLine(200.0)
        self._ttft = OnlineLine(50.0)
        self._gap_ms = OnlineLine(20.0)
        self._steps: list[tuple[float, float]] = []
        self._first_tokens: list[tuple[float, float]] = []
        self._last_finish_ms = math.nan

    def hear_step(self, tokens: int, duration_ms: float) -> None:
        """A step ended.

        Args:
            tokens: tokens computed.
            duration_ms: step time.
        """
        self._steps.append((tokens, duration_ms))
        if len(self._steps) == MOST_NOTED:
            self._learn()

    def hear_first_token(self, request: Tracked) -> None:
        """A request got its first token.

        Args:
            request: it, its `first_token_ms` set.
        """
        self._first_tokens.append((request.ahead_tokens, request.first_token_ms - request.arrival_ms))
        if len(self._first_tokens) == MOST_NOTED:
            self._learn()

    def hear_end(self, now_ms: float, *, full: bool) -> None:
        """A place became free.

        Args:
            now_ms: when.
            full: whether requests waited for it; the time since the last end then says how often places become free.
        """
        if full and not math.isnan(self._last_finish_ms):
            self._gap_ms.observe((0.0, now_ms - self._last_finish_ms))
        self._last_finish_ms = now_ms if full else math.nan

    def predict(
        self, prompt_tokens: int, requests: InFlight, limits: Limits, estimate: Sequence[float] | None
    ) -> float:
        """Time to first token of a request that came now; NaN while too little is known.

        Args:
            prompt_tokens: its prompt.
            requests: who is in flight.
            limits: in force.
            estimate: nine saturation parameters a tuner believes in, None for what steps told.
        """
        self._learn()
        ahead = requests.tokens_to_compute() + prompt_tokens
        if self._step.points >= FEWEST_STEPS:
            prefill_ms = self._prefill_ms(ahead, len(requests.running), limits, estimate)
            lacking = len(requests) + 1 - limits.batch_size
            wait_ms = lacking * self._gap_ms.predict(0.0) if lacking > 0 and self._gap_ms.points else 0.0
            return max(prefill_ms, wait_ms + self._prefill_ms(prompt_tokens, len(requests.running), limits, estimate))
        return self._ttft.predict(ahead) if self._ttft.points >= FEWEST_REQUESTS else math.nan

    def _learn(self) -> None:
        self._step.observe(*self._steps)
        self._ttft.observe(*self._first_tokens)
        self._steps.clear()
        self._first_tokens.clear()

    def _prefill_ms(self, tokens: int, running: int, limits: Limits, estimate: Sequence[float] | None) -> float:
        """Time to compute so many prompt tokens in full steps beside the requests that run."""
        full = self._full_step(running, limits, estimate)
        steps, last = divmod(max(tokens, 1), max(full - running, 1))
        time_ms = steps * self._step_ms(full, running, estimate)
        return time_ms + (self._step_ms(last + running, running, estimate) if last else 0.0)

    def _step_ms(self, tokens: int, running: int, estimate: Sequence[float] | None) -> float:
        if estimate is None:
            return self._step.predict(tokens)
        return step_ms(estimate, running + 1, max(tokens, 1), 0.0)

    def _full_step(self, running: int, limits: Limits, estimate: Sequence[float] | None) -> int:
        """Tokens of a step that is filled as far as the budget and the step target allow."""
        budget = limits.token_budget or _MOST_CHUNK_TOKENS
        target_ms = limits.step_target_ms
        if target_ms is None or self._step_ms(budget, running, estimate) <= target_ms:
            return budget
        fits, exceeds = running + 1, budget
        while exceeds - fits > 1:
            middle = (fits + exceeds) // 2
            if self._step_ms(middle, running, estimate) <= target_ms:
                fits = middle
            else:
                exceeds = middle
        return fits
