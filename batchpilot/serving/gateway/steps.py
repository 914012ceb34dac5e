"""The upstream's steps, as they show in the tokens that pass by. Times in ms.

A step gives each text at most one token, so a new one has begun when a request speaks again. That tells batch size and
step time of continuous batching without a word from the upstream; a prompt that was computed in several steps counts
whole in the one that brought its first token. Where several tokens come at once (speculation, a stream interval) the
time between is taken for as many steps: what counts is the pace per token. Requests that do not stream take part in
steps unseen.
"""

from __future__ import annotations

from collections.abc import Hashable
from dataclasses import dataclass


@dataclass(frozen=True, slots=True)
class SeenStep:
    """One step.

    Attributes:
        batch_size: texts that grew: of the requests that spoke, and of those that do not stream.
        tokens: tokens computed: the prompts of those that spoke first, one for each other text.
        context_tokens: tokens of those others so far.
        duration_ms: time since the step before, or since the first request was sent to an idle upstream, for each token
            that the others got.
    """

    batch_size: int
    tokens: int
    context_tokens: int
    duration_ms: float


@dataclass(slots=True)
class _Sent:
    length: int
    texts: int
    streams: bool


class StepWatcher:
    """Groups tokens into steps."""

    def __init__(self) -> None:
        self._sent: dict[Hashable, _Sent] = {}
        self._events: dict[Hashable, int] = {}
        self._texts = self._prompt_tokens = self._context_tokens = 0
        self._grown = self._grown_tokens = 0
        self._unseen = self._unseen_tokens = 0
        self._began_ms = self._last_ms = 0.0

    def sent(
        self, request: Hashable, prompt_tokens: int, now_ms: float, *, texts: int = 1, streams: bool = True
    ) -> None:
        """A request goes to the upstream.

        Args:
            request: its id.
            prompt_tokens: its prompt.
            now_ms: when.
            texts: how many are generated at once.
            streams: whether its tokens will be seen.
        """
        if not self._sent:
            self._began_ms = now_ms
        self._sent[request] = _Sent(prompt_tokens, texts, streams)
        if not streams:
            self._unseen += texts
            self._unseen_tokens += prompt_tokens

    def spoke(self, request: Hashable, tokens: int, *, first: bool, now_ms: float, events: int = 1) -> SeenStep | None:
        """A request's tokens have come.

        Args:
            request: its id.
            tokens: how many, >= 1.
            first: whether its first one is among them.
            now_ms: when.
            events: in how many parts they came, one for each text that spoke.

        Returns:
            The step before, if this begins another.
        """
        asked = self._sent.get(request)
        if asked is None or not asked.streams:
            return None
        spoken = self._events.get(request, 0)
        ended = self._close() if spoken >= asked.texts else None
        spoken = 0 if ended else spoken
        texts = min(spoken + events, asked.texts) - spoken
        self._events[request] = spoken + events
        self._texts += texts
        if first:
            self._prompt_tokens += asked.length
        else:
            self._context_tokens += asked.length
            self._grown += texts
            self._grown_tokens += tokens
        asked.length += tokens
        self._last_ms = now_ms
        return ended

    def ended(self, request: Hashable) -> SeenStep | None:
        """A request has left the upstream.

        Args:
            request: its id.

        Returns:
            The last step, if nobody is left.
        """
        asked = self._sent.pop(request, None)
        if asked is not None and not asked.streams:
            self._unseen -= asked.texts
            self._unseen_tokens -= asked.length
        return self._close() if not self._sent and self._events else None

    def _close(self) -> SeenStep:
        pace = max(self._grown_tokens / self._grown, 1.0) if self._grown else 1.0
        step = SeenStep(
            self._texts + self._unseen,
            round(self._prompt_tokens / pace) + self._grown + self._unseen,
            self._context_tokens + self._unseen_tokens,
            (self._last_ms - self._began_ms) / pace,
        )
        self._began_ms = self._last_ms
        self._events = {}
        self._texts = self._prompt_tokens = self._context_tokens = 0
        self._grown = self._grown_tokens = 0
        return step
