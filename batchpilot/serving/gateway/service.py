"""What the gateway's own requests say of the upstream: time to a first token, time per token. Times in ms.

Calibrated by every request that passes, so nothing needs to be known of the upstream beforehand.
"""

from __future__ import annotations

import math
from collections import deque
from collections.abc import Iterable

from batchpilot.serving.session.prediction import OnlineLine

FEWEST = 5
"""Below so many observations nothing is predicted."""

_REQUESTS, _STEPS = 100.0, 200.0
"""Requests and steps after which one counts for 1/e."""

_BEYOND = 1.25
"""How far above the concurrency that was seen it may grow: a slow start."""

TOO_BLEAK, IN_A_ROW = 2.0, 3
"""So many first tokens in a row that came in half the predicted time: what was learned is of another server or of a
hiccup, and is forgotten. Without it a guard that refuses everybody would never hear that it is wrong."""

WITNESSES, FEWEST_WITNESSES = 20, 3
"""Latest answers that are asked whether so many requests kept the pace, and how many of them must know."""

LOWEST_SHARE, HELD_SHARE = 0.7, 0.95
"""Of the promise. Tuners set step targets no lower for scatter's sake; a lower one is for somebody else's promise.
Means over steps scatter less and have their error added: they may come as near to it as guarded tuners let a step."""

FIRST = 8
"""Up to so many, what others kept is no worse for one more: steps of few requests take what a step takes at least."""

ALWAYS = 4
"""So many always go: of fewer requests nobody learns what more would cost, and small batches are not always quicker."""

Pace = tuple[float, float]
"""Of an answer: mean number of requests at the upstream while it spoke, its time per token after the first."""


class ServiceModel:
    """Two lines: time to first token over the prompt tokens before it, step time over the requests in the step.

    Both answers have their usual error added, since a prediction that is right on average breaks every second promise.
    """

    def __init__(self) -> None:
        self._first, self._step = OnlineLine(_REQUESTS), OnlineLine(_STEPS)
        self._first_error_ms = self._token_error_ms = 0.0
        self._widest = self._usual = 0.0
        self._bleak = 0
        self._answers: deque[Pace] = deque(maxlen=WITNESSES)

    def hear_first_token(self, prompt_tokens: int, taken_ms: float) -> None:
        """A request got its first token from the upstream.

        Args:
            prompt_tokens: its own and those of requests sent before it that had no first token when it was sent.
            taken_ms: time since it was sent.
        """
        if self._first.points >= FEWEST:
            predicted_ms = self._first.predict(prompt_tokens)
            self._bleak = self._bleak + 1 if predicted_ms > TOO_BLEAK * taken_ms else 0
            self._first_error_ms += (abs(taken_ms - predicted_ms) - self._first_error_ms) / _REQUESTS
        if self._bleak == IN_A_ROW:
            self._first, self._first_error_ms, self._bleak = OnlineLine(_REQUESTS), 0.0, 0
        self._first.observe((prompt_tokens, taken_ms))

    def hear_step(self, requests: int, taken_ms: float) -> None:
        """A step has ended; one that computed prompts counts like any other, as everyone beside them felt it.

        Args:
            requests: how many spoke.
            taken_ms: its time.
        """
        self._step.observe((requests, taken_ms))
        self._usual += (requests - self._usual) / min(self._step.points, _STEPS)
        self.hear_crowd(requests)

    def hear_crowd(self, requests: int) -> None:
        """So many requests were at the upstream at once.

        Args:
            requests: how many.
        """
        self._widest = max(float(requests), self._widest * math.exp(-1.0 / _STEPS))

    def hear_answer(self, crowd: float, tpot_ms: float) -> None:
        """A request has said everything.

        Args:
            crowd: mean number of requests at the upstream while it spoke.
            tpot_ms: its mean time per token after the first.
        """
        self._answers.append((crowd, tpot_ms))
        if self._step.points >= FEWEST:
            error_ms = abs(tpot_ms - self._step.predict(crowd))
            self._token_error_ms += (error_ms - self._token_error_ms) / _REQUESTS

    def first_token_ms(self, prompt_tokens: int) -> float:
        """Predicted time to first token once sent; NaN while too little is known.

        Args:
            prompt_tokens: as in `hear_first_token`.
        """
        known = self._first.points >= FEWEST
        return self._first.predict(prompt_tokens) + self._first_error_ms if known else math.nan

    def token_ms(self, requests: float) -> float:
        """Predicted time per token with so many requests at the upstream; NaN while too little is known.

        No step grows faster than its batch, whatever the line makes of a few odd points far from the others.

        Args:
            requests: how many.
        """
        if self._step.points < FEWEST:
            return math.nan
        predicted_ms = self._step.predict(requests)
        if requests > self._usual:
            predicted_ms = min(predicted_ms, self._step.predict(self._usual) * requests / self._usual)
        return predicted_ms + self._token_error_ms

    def keeps_pace(
        self, requests: int, target_ms: float, promised_ms: float | None = None, speaking: Iterable[Pace] = ()
    ) -> bool:
        """Whether so many requests at the upstream leave the time per token within a target.

        `ALWAYS` always do. Beyond the concurrency that was seen it grows by a quarter at a time. Means are held against
        the promise: a step target is as far below it as single steps scatter. Where the line through steps says no,
        answers that had nearly as many beside them are asked: a step that computes a prompt is long and has one request
        more, so at light load the line is too steep, and would keep itself from ever seeing more.

        Args:
            requests: how many.
            target_ms: the target.
            promised_ms: time per token that is promised; None for the target.
            speaking: of answers that have not ended, asked while too few have.
        """
        if requests <= ALWAYS:
            return True
        if requests > _BEYOND * self._widest + 1.0:
            return False
        held_ms = target_ms if promised_ms is None else min(promised_ms, target_ms / LOWEST_SHARE)
        allowed_ms = max(target_ms, HELD_SHARE * held_ms)
        return not self.token_ms(requests) > allowed_ms or self._was_kept(requests, held_ms, speaking)

    def _was_kept(self, requests: int, promised_ms: float, speaking: Iterable[Pace]) -> bool:
        """Whether answers with at most a quarter fewer at the upstream would keep the promise, all but one in twenty.

        That is, with two mean absolute errors added: they tell of a time before those came who are there now. And each
        slower by as much as there would be more: taken as they are, they let in a crowd at once, which computed its
        prompts together, ended together and left half of the upstream idle before the next one. `FIRST` are no crowd.
        When hardly any has ended, those that speak are asked.
        """
        asked = self._answers if len(self._answers) >= FEWEST_WITNESSES else (*self._answers, *speaking)
        grown = requests if requests > FIRST else 1
        known = [
            tpot_ms * max(grown / max(crowd, 1.0), 1.0) for crowd, tpot_ms in asked if _BEYOND * crowd + 1.0 >= requests
        ]
        if len(known) < FEWEST_WITNESSES:
            return False
        mean_ms = sum(known) / len(known)
        return mean_ms + 2.0 * sum(abs(tpot_ms - mean_ms) for tpot_ms in known) / len(known) <= promised_ms
