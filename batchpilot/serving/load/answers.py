"""What comes back from an OpenAI-compatible server, in the dialects that servers speak: tokens, ends, refusals."""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

REFUSALS = (429, 503)
ABORT = "abort"
"""How vLLM and SGLang end a request that they gave up."""

_GUARD = "refused_by_guard"
_TEXTS = ("text", "content", "reasoning_content", "reasoning", "tool_calls")
_MOST_TOLD = 300


@dataclass(frozen=True, slots=True)
class Answered:
    """What became of one request. Times in ms.

    Attributes:
        reason: `length` for a complete answer, `refused_on_arrival`, `refused_by_guard`, `failed` or `cancelled`.
        status: HTTP status, 0 without one.
        first_ms: time of the first token, NaN without one.
        end_ms: time of the last token of a complete answer, else of the end.
        output_tokens: how many came.
        detail: what the server said of a refusal or failure.
        counted: whether the server said itself how many tokens came; without its word an event counts as one.
        streamed: whether the answer came token by token.
        prompt_tokens: as the server counted them, None where it does not say.
    """

    reason: str
    status: int
    first_ms: float
    end_ms: float
    output_tokens: int
    detail: str = ""
    counted: bool = False
    streamed: bool = True
    prompt_tokens: int | None = None


class AnswerReader:
    """Reads an answer's events, or an answer that came whole.

    An event counts as a token for each choice that says something, or that says nothing and goes on (a token of which
    no character is complete yet); a `usage` says exactly. Not tokens: an event that only names the role, and an empty
    one with a finish reason.

    Args:
        streams: whether the answer is server-sent events rather than one JSON document.

    Attributes:
        tokens: output tokens so far.
        counted: whether a `usage` said so.
        prompt_tokens: as the server counted them.
        ended: whether the answer said that it is complete: by `[DONE]`, a finish reason, or as a whole document.
        finish_reason: as the server said it.
        error: what an error in the answer said.
        error_code: its code, as a number where it is one.
    """

    def __init__(self, streams: bool = True) -> None:
        self.tokens = 0
        self.counted = False
        self.prompt_tokens: int | None = None
        self.ended = False
        self.finish_reason: str | None = None
        self.error: str | None = None
        self.error_code: object = None
        self._streams = streams
        self._unread = b""
        self._event = b""

    def hear(self, data: bytes) -> bool:
        """Read a piece of the answer.

        Args:
            data: as it came, cut anywhere.

        Returns:
            Whether it brought output.
        """
        if not self._streams:
            self._unread += data
            return False
        said = False
        *lines, self._unread = (self._unread + data).split(b"\n")
        for line in lines:
            said |= self._line(line)
        return said

    def end(self) -> bool:
        """The answer is over; returns whether its end brought output."""
        rest, self._unread = self._unread, b""
        if self._streams:
            return self._line(rest)
        said = self._document(rest)
        self.ended = said or self.ended
        return said

    def _line(self, line: bytes) -> bool:
        name, _, value = line.partition(b":")
        if name == b"data":
            value = value.strip()
            if value == b"[DONE]":
                self.ended = True
                return False
            self._event += value
            if not self._event.endswith(b"}"):
                return False
            return self._document(self._event)
        if not name.strip():
            self._event = b""
        elif name == b"error":
            # llama.cpp's own, before it put errors into data.
            self._failed(_parsed(value) or value.decode(errors="replace"))
        return False

    def _document(self, text: bytes) -> bool:
        data = _parsed(text)
        if not isinstance(data, dict):
            return False
        self._event = b""
        if data.get("error"):
            self._failed(data["error"])
        choices = data.get("choices")
        said = sum(self._choice(choice) for choice in choices) if isinstance(choices, list) else 0
        if not self.counted:
            self.tokens += said
        self._usage(data.get("usage"))
        return said > 0

    def _choice(self, choice: object) -> bool:
        if not isinstance(choice, dict):
            return False
        spoken = choice.get("delta") or choice.get("message") or choice
        reason = choice.get("finish_reason")
        if reason:
            self.ended = True
            self.finish_reason = str(reason.get("type", reason) if isinstance(reason, dict) else reason)
        if not isinstance(spoken, dict):
            return False
        if any(spoken.get(name) for name in _TEXTS):
            return True
        begins = "role" in spoken
        return not reason and not begins and any(spoken.get(name) == "" for name in _TEXTS)

    def _usage(self, usage: object) -> None:
        if not isinstance(usage, dict):
            return
        output, prompt = _whole(usage.get("completion_tokens")), _whole(usage.get("prompt_tokens"))
        if output is not None:
            self.tokens, self.counted = output, True
        if prompt is not None:
            self.prompt_tokens = prompt

    def _failed(self, error: object) -> None:
        if isinstance(error, Mapping):
            self.error_code = error.get("code")
            error = error.get("message") or error
        self.error = str(error)[:_MOST_TOLD]


def refusal(status: int, told: str) -> str:
    """What an answer other than 200 means: a refusal for now, or a failure.

    Args:
        status: HTTP status.
        told: its body.

    Returns:
        `refused_on_arrival`, `refused_by_guard` or `failed`.
    """
    if status not in REFUSALS:
        return "failed"
    data = _parsed(told.encode())
    error = data.get("error") if isinstance(data, dict) else None
    code = error.get("code") if isinstance(error, dict) else None
    if isinstance(code, str) and code.startswith("upstream_"):
        return "failed"
    return _GUARD if _GUARD in told else "refused_on_arrival"


def shown(told: str) -> str:
    """As much of what a server said as a report holds, on one line.

    Args:
        told: any text.
    """
    return " ".join(told.split())[:_MOST_TOLD]


def _parsed(text: bytes) -> Any:
    try:
        return json.loads(text)
    except ValueError:
        return None


def _whole(value: object) -> int | None:
    return value if isinstance(value, int) and not isinstance(value, bool) and value >= 0 else None
