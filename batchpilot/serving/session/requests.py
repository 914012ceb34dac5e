"""The requests that a server has told of and not yet ended: who waits, who runs, with how many tokens. Times in ms."""

from __future__ import annotations

import math
from collections.abc import Hashable, Iterable
from operator import attrgetter
from typing import Any

import numpy as np
from numpy.typing import NDArray

from batchpilot.core.details import IN_FLIGHT

_fields = attrgetter(*(IN_FLIGHT.names or ()))


class Tracked:
    """One request in flight.

    Attributes:
        arrival_ms: when it came.
        prompt_tokens: its prompt.
        ttft_target_ms: its promise, infinity for none.
        tpot_target_ms: likewise.
        ahead_tokens: prompt tokens to be computed when it came, its own included.
        prefill_told: whether the server tells its prefill in parts.
        computed_tokens: its tokens in the KV cache, as far as told.
        generated_tokens: output tokens so far.
        first_token_ms: time of its first token, NaN before.
    """

    __slots__ = (
        "ahead_tokens",
        "arrival_ms",
        "computed_tokens",
        "first_token_ms",
        "generated_tokens",
        "prefill_told",
        "prompt_tokens",
        "tpot_target_ms",
        "ttft_target_ms",
    )

    def __init__(self, arrival_ms: float, prompt_tokens: int, ttft_target_ms: float, tpot_target_ms: float) -> None:
        self.arrival_ms = arrival_ms
        self.prompt_tokens = prompt_tokens
        self.ttft_target_ms = ttft_target_ms
        self.tpot_target_ms = tpot_target_ms
        self.prefill_told = False
        self.ahead_tokens = self.computed_tokens = self.generated_tokens = 0
        self.first_token_ms = math.nan

    @property
    def tokens_to_compute(self) -> int:
        """What is left of its prompt before its first token, as far as told."""
        return 0 if self.generated_tokens else max(self.prompt_tokens - self.computed_tokens, 0)

    def tpot_ms(self, last_token_ms: float, texts: int = 1) -> float:
        """Mean time per output token of each text after its first; NaN with fewer than two.

        Args:
            last_token_ms: time of its last token.
            texts: how many were generated at once.
        """
        apart = self.generated_tokens / texts - 1.0
        return (last_token_ms - self.first_token_ms) / apart if apart > 0.0 else math.nan


class InFlight:
    """Waiting and running requests.

    Attributes:
        waiting: requests by id in order of arrival.
        running: requests by id in order of admission.
        queued_tokens: prompt tokens of those that wait.
    """

    def __init__(self) -> None:
        self.waiting: dict[Hashable, Tracked] = {}
        self.running: dict[Hashable, Tracked] = {}
        self.queued_tokens = 0

    def __len__(self) -> int:
        return len(self.waiting) + len(self.running)

    def get(self, request: Hashable) -> Tracked | None:
        """A request by its id, None when there is none.

        Args:
            request: its id.
        """
        return self.running.get(request) or self.waiting.get(request)

    def arrive(self, request: Hashable, tracked: Tracked) -> None:
        """A request comes and waits.

        Args:
            request: its id, of no other request in flight.
            tracked: what is known of it.
        """
        self.waiting[request] = tracked
        self.queued_tokens += tracked.prompt_tokens
        tracked.ahead_tokens = self.tokens_to_compute()

    def start(self, request: Hashable) -> Tracked | None:
        """A waiting request is let in; nothing happens to one that runs.

        Args:
            request: its id.

        Returns:
            The request, None when there is none.
        """
        tracked = self.waiting.pop(request, None)
        if tracked is None:
            return self.running.get(request)
        self.queued_tokens -= tracked.prompt_tokens
        self.running[request] = tracked
        return tracked

    def put_back(self, request: Hashable) -> Tracked | None:
        """A running request is preempted: it waits again and has nothing computed.

        Args:
            request: its id.

        Returns:
            The request, None when none such runs.
        """
        tracked = self.running.pop(request, None)
        if tracked is not None:
            self.waiting[request] = tracked
            self.queued_tokens += tracked.prompt_tokens
        return tracked

    def leave(self, request: Hashable) -> Tracked | None:
        """A request ends.

        Args:
            request: its id.

        Returns:
            The request, None when there is none.
        """
        tracked = self.running.pop(request, None)
        if tracked is None and (tracked := self.waiting.pop(request, None)) is not None:
            self.queued_tokens -= tracked.prompt_tokens
        return tracked

    def tokens_to_compute(self) -> int:
        """Prompt tokens that wait, and what is left of the prompts of running requests."""
        return self.queued_tokens + sum(tracked.tokens_to_compute for tracked in self.running.values())

    def unanswered_tokens(self) -> int:
        """Prompt tokens of requests without a first token: what `max_queued_tokens` bounds."""
        in_flight = (*self.waiting.values(), *self.running.values())
        return sum(tracked.prompt_tokens for tracked in in_flight if not tracked.generated_tokens)

    def held_tokens(self) -> int:
        """Tokens that running requests hold in the KV cache when a server reserves whole prompts."""
        return sum(tracked.prompt_tokens + tracked.generated_tokens for tracked in self.running.values())

    def oldest_wait_ms(self, now_ms: float) -> float:
        """Age of the longest waiting request, 0 without one.

        Args:
            now_ms: the present.
        """
        return max((now_ms - tracked.arrival_ms for tracked in self.waiting.values()), default=0.0)


def as_records(requests: Iterable[Tracked]) -> NDArray[Any]:
    """Requests as tuners hear of them.

    Args:
        requests: any.

    Returns:
        Records of `IN_FLIGHT`, shape (n,).
    """
    return np.array([_fields(tracked) for tracked in requests], IN_FLIGHT)
