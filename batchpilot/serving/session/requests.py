"""The requests that a server has told of and not yet ended: who waits, who runs, with how many tokens. Times in ms.

A step costs what changes in it. Requests that decode together share a count of tokens said, so that a step of the same
requests as the last one's adds one number; sums over requests are kept as they come and go.
"""

from __future__ import annotations

import math
from collections.abc import Hashable, Iterable, Sequence
from operator import attrgetter
from typing import Any

import numpy as np
from numpy.typing import NDArray

from batchpilot.core.details import IN_FLIGHT

MOST_TAKEN_OUT = 4
"""More requests than these that ended in a step are not searched for in the list of those that decode: it is made anew.
"""

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
        generated_tokens: output tokens so far; `InFlight` brings it up to date whenever it hands a request out.
        first_token_ms: time of its first token, NaN before.
        cached_tokens: tokens of its prompt that the server has found in its prefix cache, as far as told.
        uncached_tokens: the others: what its prompt asks of the server.
        started: whether it was ever let in.
        joined: the shared count of those that decode together, when this was last brought up to date; None beside them.
    """

    __slots__ = (
        "ahead_tokens",
        "arrival_ms",
        "cached_tokens",
        "computed_tokens",
        "first_token_ms",
        "generated_tokens",
        "joined",
        "prefill_told",
        "prompt_tokens",
        "started",
        "tpot_target_ms",
        "ttft_target_ms",
        "uncached_tokens",
    )

    def __init__(
        self,
        arrival_ms: float,
        prompt_tokens: int,
        ttft_target_ms: float,
        tpot_target_ms: float,
        cached_tokens: int = 0,
    ) -> None:
        self.arrival_ms = arrival_ms
        self.prompt_tokens = self.uncached_tokens = prompt_tokens
        self.ttft_target_ms = ttft_target_ms
        self.tpot_target_ms = tpot_target_ms
        self.prefill_told = self.started = False
        self.ahead_tokens = self.generated_tokens = self.cached_tokens = self.computed_tokens = 0
        if cached_tokens:
            self.find(cached_tokens)
        self.first_token_ms = math.nan
        self.joined: int | None = None

    def find(self, tokens: int) -> None:
        """So many tokens of its prompt are in the server's prefix cache; the last one is always computed.

        Args:
            tokens: how many.
        """
        self.cached_tokens = self.computed_tokens = min(max(tokens, 0), max(self.prompt_tokens - 1, 0))
        self.uncached_tokens = self.prompt_tokens - self.cached_tokens

    @property
    def tokens_to_compute(self) -> int:
        """What is left of its prompt before its first token, as far as told."""
        left = self.prompt_tokens - self.computed_tokens
        return left if left > 0 and not self.generated_tokens else 0

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
        queued_tokens: prompt tokens of those that wait, cached ones aside.
        unanswered_tokens: likewise of requests without a first token: what `max_queued_tokens` bounds.
        held_tokens: tokens that running requests hold in the KV cache when a server reserves whole prompts.
        admitted_prompt_tokens: prompt tokens of requests that were let in for the first time.
        cached_prompt_tokens: of these, what was found in the prefix cache.
    """

    def __init__(self) -> None:
        self.waiting: dict[Hashable, Tracked] = {}
        self.running: dict[Hashable, Tracked] = {}
        self.queued_tokens = self.unanswered_tokens = self.held_tokens = 0
        self.admitted_prompt_tokens = self.cached_prompt_tokens = 0
        self._begun_tokens = 0
        self._decoding: dict[Hashable, Tracked] = {}
        self._order: list[Hashable] = []
        self._parted: list[Hashable] = []
        self._said = 0

    def __len__(self) -> int:
        return len(self.waiting) + len(self.running)

    def get(self, request: Hashable) -> Tracked | None:
        """A request by its id, None when there is none.

        Args:
            request: its id.
        """
        tracked = self.running.get(request)
        if tracked is None:
            return self.waiting.get(request)
        if tracked.joined is not None:
            self._update(tracked)
        return tracked

    def arrive(self, request: Hashable, tracked: Tracked) -> None:
        """A request comes and waits.

        Args:
            request: its id, of no other request in flight.
            tracked: what is known of it.
        """
        uncached_tokens = tracked.uncached_tokens
        self.waiting[request] = tracked
        self.queued_tokens += uncached_tokens
        self.unanswered_tokens += uncached_tokens
        tracked.ahead_tokens = self.queued_tokens + self._begun_tokens

    def start(self, request: Hashable, cached_tokens: int | None = None) -> Tracked | None:
        """A waiting request is let in; nothing happens to one that runs.

        Args:
            request: its id.
            cached_tokens: what the server found of its prompt; None for what was known before.

        Returns:
            The request, None when there is none.
        """
        tracked = self.running.get(request)
        if tracked is not None:
            if tracked.joined is not None:
                self._update(tracked)
            return tracked
        tracked = self.waiting.pop(request, None)
        if tracked is None:
            return None
        self.queued_tokens -= tracked.uncached_tokens
        self.running[request] = tracked
        if not tracked.started:
            tracked.started = True
            if cached_tokens is not None:
                self.unanswered_tokens -= tracked.uncached_tokens
                tracked.find(cached_tokens)
                self.unanswered_tokens += tracked.uncached_tokens
            self.admitted_prompt_tokens += tracked.prompt_tokens
            self.cached_prompt_tokens += tracked.cached_tokens
        self._begun_tokens += tracked.tokens_to_compute
        self.held_tokens += tracked.prompt_tokens + tracked.generated_tokens
        return tracked

    def compute(self, tracked: Tracked, tokens: int) -> None:
        """A step computed part of a running request's prompt.

        Args:
            tracked: the request, as `start` returned it.
            tokens: how many.
        """
        before = tracked.tokens_to_compute
        tracked.computed_tokens += tokens
        self._begun_tokens += tracked.tokens_to_compute - before

    def emit(self, tracked: Tracked, tokens: int) -> None:
        """A running request says tokens by itself.

        Args:
            tracked: the request, as `start` returned it.
            tokens: how many, >= 1.
        """
        if tracked.generated_tokens == 0:
            self._begun_tokens -= tracked.tokens_to_compute
            self.unanswered_tokens -= tracked.uncached_tokens
        self.held_tokens += tokens
        tracked.generated_tokens += tokens
        # The last token of an output is not computed on yet.
        tracked.computed_tokens = tracked.prompt_tokens + tracked.generated_tokens - 1

    def decode(self, told: list[Hashable], tokens: int) -> Sequence[Hashable]:
        """A step's requests say tokens: those that decoded together before do it here.

        Args:
            told: their ids.
            tokens: how many each.

        Returns:
            Those that do not decode with them, in order; they are to `emit` by themselves, and may `join` unless it is
            `told` itself.
        """
        order = self._decoding_order()
        known = len(order)
        fresh: list[Hashable] = []
        if told != order:
            if told[:known] == order:
                fresh = told[known:]
                if len(set(fresh)) < len(fresh) or not self._decoding.keys().isdisjoint(fresh):
                    return told
            elif self._part_absent(told):
                fresh = [request for request in told if request not in self._decoding]
            else:
                return told
        if tokens < 1:
            return told
        self._said += tokens
        self.held_tokens += tokens * len(self._decoding)
        return fresh

    def join(self, request: Hashable) -> None:
        """A request decodes together with the others from now on, if it runs and has said a token.

        Args:
            request: its id, one of those that `decode` returned.
        """
        tracked = self.running.get(request)
        if tracked is not None and tracked.generated_tokens:
            tracked.joined = self._said
            self._decoding[request] = tracked
            self._order.append(request)

    def put_back(self, request: Hashable) -> Tracked | None:
        """A running request is preempted: it waits again and has nothing computed.

        Args:
            request: its id.

        Returns:
            The request, None when none such runs.
        """
        tracked = self._stop(request)
        if tracked is not None:
            self.waiting[request] = tracked
            self.queued_tokens += tracked.uncached_tokens
        return tracked

    def leave(self, request: Hashable) -> Tracked | None:
        """A request ends.

        Args:
            request: its id.

        Returns:
            The request, None when there is none.
        """
        tracked = self._stop(request)
        if tracked is None and (tracked := self.waiting.pop(request, None)) is not None:
            self.queued_tokens -= tracked.uncached_tokens
        if tracked is not None and tracked.generated_tokens == 0:
            self.unanswered_tokens -= tracked.uncached_tokens
        return tracked

    def update(self) -> None:
        """Bring every request up to date, for who looks at all of them."""
        for tracked in self._decoding.values():
            self._update(tracked)

    def tokens_to_compute(self) -> int:
        """Prompt tokens that wait, and what is left of the prompts of running requests."""
        return self.queued_tokens + self._begun_tokens

    def _stop(self, request: Hashable) -> Tracked | None:
        tracked = self.running.pop(request, None)
        if tracked is not None:
            if tracked.joined is not None:
                self._part(request, tracked)
            if not tracked.generated_tokens:
                self._begun_tokens -= tracked.tokens_to_compute
            self.held_tokens -= tracked.prompt_tokens + tracked.generated_tokens
        return tracked

    def _part_absent(self, told: list[Hashable]) -> bool:
        """Part those that decode and were not told; False where a step is no reason to: told twice, or a small part."""
        here = set(told)
        gone = self._decoding.keys() - here
        if len(here) < len(told) or len(gone) > len(here):
            return False
        for request in gone:
            self._part(request, self._decoding[request])
        return True

    def _part(self, request: Hashable, tracked: Tracked) -> None:
        self._update(tracked)
        tracked.joined = None
        del self._decoding[request]
        self._parted.append(request)

    def _decoding_order(self) -> list[Hashable]:
        """The keys of those that decode together: kept, as to list them costs more than the rest of a step."""
        if self._parted:
            if len(self._parted) > MOST_TAKEN_OUT:
                self._order = list(self._decoding)
            else:
                for request in self._parted:
                    self._order.remove(request)
            self._parted.clear()
        return self._order

    def _update(self, tracked: Tracked) -> None:
        if tracked.joined is not None and tracked.joined != self._said:
            tracked.generated_tokens += self._said - tracked.joined
            tracked.computed_tokens = tracked.prompt_tokens + tracked.generated_tokens - 1
            tracked.joined = self._said

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
