"""What comes back from an OpenAI-compatible server, in the dialects that servers speak, and whether it is an answer.

The gateway and the load test judge by the same rules. Lengths in tokens.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from batchpilot.serving.dialects import as_chunk
from batchpilot.serving.event_lines import EventLines
from batchpilot.serving.outcomes import FAILED, MOST_TOLD, REFUSED, SERVED, is_busy, is_out_of_room, parsed
from batchpilot.serving.texts import TokenCount, count_by_bytes

ABORT = "abort"
"""How vLLM and SGLang end a request that they gave up."""

_BROKEN_OFF = (ABORT, "error")
_TEXTS = ("text", "content", "reasoning_content", "reasoning", "tool_calls", "function_call", "refusal", "audio")
_SEVERAL, _FEWEST_EVENTS = 2.0, 5
"""Without a usage, so many times the events in at least so many events: each of them holds several tokens."""

MOST_TOKENS = 2**31 - 1
"""A usage that says more says nothing: counters that ran below zero say 2^64 - 1."""


class AnswerReader:
    """Reads an answer's events, or an answer that came whole.

    An event counts as a token for each choice that says something, that tells of tokens without their text (by log
    probabilities or ids: a control token, the one that ends an answer), or that says nothing and goes on (a token of
    which no character is complete yet), or as many as `tokens_per_event` says. A `usage` that grows with the events
    says exactly, and at the end any that can be true; zero, null and stale ones say nothing, and then text is counted
    where events plainly hold several tokens. Not tokens: an event that only names the role; and of those that tell
    nothing, empty ones before the first text and one with a finish reason, unless it is `length` and nothing came
    before.

    Args:
        streams: whether the answer is server-sent events rather than one JSON document.
        tokens_per_event: what other answers of this server had, >= 1.
        count: tokens of a text.
        most: tokens that each choice may have, None for unknown. With 0 there are none, whatever is said: servers echo
            the prompt, and vLLM counts a token that it made and kept.

    Attributes:
        tokens: output tokens so far, of all choices.
        events: events that said something, one for each choice in them.
        counted: whether a `usage` said so, or there could be none.
        prompt_tokens: as the server counted them, None where it does not say.
        ended: whether the answer said that it is complete: by `[DONE]`, by finish reasons of all choices that spoke, or
            as a whole document. One that ended by a finish reason is an answer even without text: a model may end at
            once.
        finish_reason: as the server said it; of several choices one that was broken off, else the last.
        error: what an error in the answer said.
    """

    def __init__(
        self,
        streams: bool = True,
        tokens_per_event: float = 1.0,
        count: TokenCount = count_by_bytes,
        most: int | None = None,
    ) -> None:
        self.tokens = self.events = 0
        self.counted = False
        self.prompt_tokens: int | None = None
        self.finish_reason: str | None = None
        self.error: str | None = None
        self._busy = self._no_room = False
        self._streams, self._per_event, self._count, self._most = streams, tokens_per_event, count, most
        self._lines = EventLines()
        self._unread = self._event = b""
        self._within = self._names_error = self._done = False
        self._spoke: set[object] = set()
        self._finished: set[object] = set()
        self._texts: list[str] = []
        self._told = self._told_at = 0
        self._grows = True

    @property
    def ended(self) -> bool:
        """See the class."""
        return self._done or (bool(self._finished) and self._spoke <= self._finished)

    @property
    def choices(self) -> int:
        """How many choices spoke, at least 1."""
        return max(len(self._spoke), 1)

    @property
    def unread_bytes(self) -> int:
        """Bytes held until the rest of their event has come."""
        return len(self._unread) + len(self._lines.unread) + len(self._event)

    @property
    def between_events(self) -> bool:
        """Whether a stream was last heard at its beginning or at the end of an event."""
        return not (self._within or self._lines.unread)

    def hear(self, data: bytes) -> int:
        """Read a piece of the answer.

        Args:
            data: as it came, cut anywhere.

        Returns:
            Output tokens that it brought, 0 for a usage that only corrects.
        """
        if not self._streams:
            self._unread += data
            return 0
        before = self.tokens
        for line in self._lines.hear(data):
            self._line(line)
        return self.tokens - before

    def end(self) -> int:
        """The answer is over: count what it has in all.

        Returns:
            Output tokens that its last bytes brought.
        """
        before = self.tokens
        if self._streams:
            self._line(self._lines.end())
            self._line(b"")
        else:
            whole, self._unread = self._unread, b""
            self._document(whole)
            self._done = self._done or self.events > 0
        brought = self.tokens - before
        self._count_all()
        return brought if self._streams else self.tokens

    def judged(self) -> tuple[str, str]:
        """What the answer is once it has ended.

        Returns:
            `SERVED`, `REFUSED` or `FAILED`, and why for people ("" for an answer).
        """
        if self.error is not None:
            busy = self._no_room or (self._busy and not self.events)
            return (REFUSED if busy else FAILED), self.error
        if self.finish_reason in _BROKEN_OFF:
            refused = self.finish_reason == ABORT and not self.events
            told = f"finish reason {self.finish_reason}: given up by the server after {self.tokens} tokens"
            return (REFUSED if refused else FAILED), told
        if self.ended and (self.events or self.finish_reason is not None):
            return SERVED, ""
        if self.events:
            return FAILED, "the stream ended without [DONE] or a finish reason"
        return FAILED, "the answer is empty" if self.ended else ""

    def _line(self, line: bytes) -> None:
        if line.startswith(b"data:"):
            self._within = True
            value = line[5:].strip()
            if value == b"[DONE]":
                self._done = True
                return
            self._event = self._event + b"\n" + value if self._event else value
            if value.endswith(b"}") or self._names_error:
                self._document(self._event)
            return
        self._within = bool(line.strip())
        if not self._within:
            if self._names_error and self._event:
                self._failed(self._event.decode(errors="replace"))
            self._event, self._names_error = b"", False
            return
        name, _, value = line.partition(b":")
        if name == b"event":
            self._names_error = value.strip() == b"error"
        elif name == b"error":
            # llama.cpp's own, before it put errors into data.
            self._failed(parsed(value) or value.decode(errors="replace"))

    def _document(self, text: bytes) -> None:
        data = parsed(text)
        if not isinstance(data, dict):
            return
        self._event = b""
        if "choices" not in data:
            data = as_chunk(data)
        if error := data.get("error"):
            self._failed(error, data)
        elif self._names_error or data.get("object") == "error":
            self._failed(data)
        said, told, choices, usage = 0, 0, data.get("choices"), data.get("usage")
        if isinstance(choices, list):
            for choice in choices:
                said += self._choice(choice)
        if isinstance(usage, dict):
            told = _whole(usage.get("completion_tokens"))
            self.prompt_tokens = _whole(usage.get("prompt_tokens")) or self.prompt_tokens
        if said:
            self._hear_tokens(said, told)
        if told:
            self._told, self._told_at, self.counted = told, self.events, True

    def _hear_tokens(self, said: int, told: int) -> None:
        """Events have said something, beside a running total or none."""
        before = self.events
        self.events += said
        if self._most == 0:
            return
        if not told and self._per_event == 1.0:
            self._grows = False
            self.tokens += said
            return
        if told and self._grows and len(self._spoke) == 1:
            brought = told - self._told
        else:
            brought = int(self.events * self._per_event) - int(before * self._per_event)
        self._grows = told > self._told
        self.tokens += max(brought, 0)

    def _choice(self, choice: object) -> bool:
        if not isinstance(choice, dict):
            return False
        spoken = choice.get("delta") or choice.get("message") or choice
        reason, index = choice.get("finish_reason"), choice.get("index", 0)
        index = index if isinstance(index, int) else 0
        if reason:
            self._finished.add(index)
            if self.finish_reason not in _BROKEN_OFF:
                self.finish_reason = str(reason.get("type", reason) if isinstance(reason, dict) else reason)
        if not isinstance(spoken, dict):
            return False
        text = spoken.get("text") or spoken.get("content")
        if isinstance(text, str) and text:
            self._texts.append(text)
            self._spoke.add(index)
            return True
        says = False
        for name in _TEXTS:
            if value := spoken.get(name):
                says = True
                self._texts.append(value if isinstance(value, str) else _said(value))
        if not says:
            begun = index in self._spoke
            goes_on = not reason and "role" not in spoken and any(spoken.get(name) == "" for name in _TEXTS)
            says = _tells_tokens(choice) or (goes_on if begun else reason == "length")
        if says:
            self._spoke.add(index)
        return says

    def _count_all(self) -> None:
        """The whole number of tokens, once everything has come."""
        if self._most == 0:
            self.counted = True
            return
        if self._told and self._told_at == self.events and 2 * self._told >= self.events:
            self.tokens = max(self._told, self.events) if len(self._spoke) > 1 else self._told
            return
        self.counted = False
        self.tokens = max(self.tokens, self._told, self.events)
        by_text = self._count("".join(self._texts)) if self._texts else 0
        if self._most is not None:  # the text may hold the prompt too, where that is echoed
            by_text = min(by_text, self._most * self.choices)
        if not self._streams or (self.events >= _FEWEST_EVENTS and by_text >= _SEVERAL * self.events):
            self.tokens = max(self.tokens, by_text)

    def _failed(self, error: object, beside: Mapping[str, Any] | None = None) -> None:
        self._busy, self._no_room = is_busy(error, beside), is_out_of_room(str(error))
        if isinstance(error, Mapping):
            error = error.get("message") or error
        self.error = str(error)[:MOST_TOLD]


def _tells_tokens(choice: Mapping[str, Any]) -> bool:
    """Whether a choice lists tokens: by log probabilities, as chats or completions have them, or by vLLM's ids."""
    logprobs = choice.get("logprobs")
    listed = [choice.get("token_ids")]
    if isinstance(logprobs, Mapping):
        listed += [logprobs.get(name) for name in ("content", "refusal", "tokens")]
    return any(isinstance(tokens, list) and tokens for tokens in listed)


def _said(value: object) -> str:
    """The text in calls of tools, or in parts of contents."""
    said: list[str] = []
    for part in value if isinstance(value, list) else [value]:
        function = part.get("function") or part if isinstance(part, dict) else None
        if isinstance(function, dict):
            said += [text for name in ("name", "arguments", "text") if isinstance(text := function.get(name), str)]
    return "".join(said)


def _whole(value: object) -> int:
    """A count that says something: a whole number from 1 to `MOST_TOKENS`, else 0."""
    if isinstance(value, bool) or not isinstance(value, int | float) or not 1 <= value <= MOST_TOKENS:
        return 0
    return int(value) if value == int(value) else 0
