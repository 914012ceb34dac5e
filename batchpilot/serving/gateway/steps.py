"""The upstream's steps, as they show in the tokens that pass by. Times in ms.

A step gives each request at most one token, so a new one has begun when a request speaks again. That tells batch size
and step time of continuous batching without a word from the upstream; a prompt that was computed in several steps
counts whole in the one that brought its first token.
"""

from __future__ import annotations

from collections.abc import Hashable
from dataclasses import dataclass


@dataclass(frozen=True, slots=True)
class SeenStep:
    """One step.

    Attributes:
        batch_size: requests that spoke.
        tokens: tokens computed: the prompts of those that spoke first, one for each other.
        context_tokens: tokens of those others so far.
        duration_ms: time since the step before, or since the first request was sent to an idle upstream.
    """

    batch_size: int
    tokens: int
    context_tokens: int
    duration_ms: float


class StepWatcher:
    """Groups tokens into steps."""

    def __init__(self) -> None:
        self._lengths: dict[Hashable, int] = {}
        self._spoke: dict[Hashable, None] = {}
        self._tokens = self._context_tokens = 0
        self._began_ms = self._last_ms = 0.0

    def sent(self, request: Hashable, prompt_tokens: int, now_ms: float) -> None:
        """A request goes to the upstream.

        Args:
            request: its id.
            prompt_tokens: its prompt.
            now_ms: when.
        """
        if not self._lengths:
            self._began_ms = now_ms
        self._lengths[request] = prompt_tokens

    def spoke(self, request: Hashable, tokens: int, *, first: bool, now_ms: float) -> SeenStep | None:
        """A request's tokens have come.

        Args:
            request: its id.
            tokens: how many, >= 1.
            first: whether its first one is among them.
            now_ms: when.

        Returns:
            The step before, if this begins another.
        """
        ended = self._close() if request in self._spoke else None
        self._spoke[request] = None
        length = self._lengths.get(request, 0)
        self._tokens += length if first else tokens
        self._context_tokens += 0 if first else length
        self._lengths[request] = length + tokens
        self._last_ms = now_ms
        return ended

    def ended(self, request: Hashable) -> SeenStep | None:
        """A request has left the upstream.

        Args:
            request: its id.

        Returns:
            The last step, if nobody is left.
        """
        self._lengths.pop(request, None)
        return self._close() if not self._lengths and self._spoke else None

    def _close(self) -> SeenStep:
        step = SeenStep(len(self._spoke), self._tokens, self._context_tokens, self._last_ms - self._began_ms)
        self._began_ms = self._last_ms
        self._spoke = {}
        self._tokens = self._context_tokens = 0
        return step
