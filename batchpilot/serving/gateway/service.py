"""What the gateway's own requests say of the upstream: time to a first token, time per token. Times in ms.

Calibrated by every request that passes, so nothing needs to be known of the upstream beforehand.
"""

from __future__ import annotations

import math

from batchpilot.serving.session_prediction import OnlineLine

FEWEST = 5
"""Below so many requests nothing is predicted."""

_MEMORY = 100.0
_BEYOND = 1.25
"""How far above the concurrency it has seen a line is believed."""


class ServiceModel:
    """Two lines: time to first token over the prompt tokens before it, time per token over the requests beside it."""

    def __init__(self) -> None:
        self._first, self._token = OnlineLine(_MEMORY), OnlineLine(_MEMORY)
        self._first_error_ms = 0.0
        self._widest = 0.0

    @property
    def known(self) -> bool:
        """Whether enough requests have passed to predict."""
        return self._first.points >= FEWEST

    def hear_first_token(self, prompt_tokens: int, taken_ms: float) -> None:
        """A request got its first token from the upstream.

        Args:
            prompt_tokens: its own and those of requests sent before it that had no first token when it was sent.
            taken_ms: time since it was sent.
        """
        predicted_ms = self._first.predict(prompt_tokens)
        if self.known and math.isfinite(predicted_ms):
            self._first_error_ms += (abs(taken_ms - predicted_ms) - self._first_error_ms) / _MEMORY
        self._first.observe(prompt_tokens, taken_ms)

    def hear_answer(self, beside: float, tpot_ms: float) -> None:
        """A request has said everything.

        Args:
            beside: mean number of requests at the upstream while it spoke, itself included.
            tpot_ms: its mean time per token after the first.
        """
        self._token.observe(beside, tpot_ms)
        self._widest = max(beside, self._widest * math.exp(-1.0 / _MEMORY))

    def first_token_ms(self, prompt_tokens: int) -> float:
        """Predicted time to first token once sent, its usual error added; NaN while too little is known.

        Args:
            prompt_tokens: as in `hear_first_token`.
        """
        return self._first.predict(prompt_tokens) + self._first_error_ms if self.known else math.nan

    def token_ms(self, requests: float) -> float:
        """Predicted time per token with so many requests at the upstream; NaN while too little is known.

        Args:
            requests: how many.
        """
        return self._token.predict(requests) if self._token.points >= FEWEST else math.nan

    def keeps_pace(self, requests: int, target_ms: float) -> bool:
        """Whether so many requests at the upstream leave the time per token within a target.

        One request always does, and so does anything while too little is known; a line is not believed far beyond the
        concurrency it comes from.

        Args:
            requests: how many.
            target_ms: the target.
        """
        if requests <= 1 or self._token.points < FEWEST:
            return True
        return requests <= max(_BEYOND * self._widest, 2.0) and self.token_ms(requests) <= target_ms
