"""What a gateway reads in answers while they pass by: output tokens, errors, ends. Lengths in tokens."""

from __future__ import annotations

import json
import zlib

MOST_READ_BYTES = 2**24
"""Of an answer that comes whole, or of one event: what is longer passes and is not counted."""

_PACKED = (b"gzip", b"x-gzip", b"deflate")
_ANY_ZLIB = 47
"""`zlib` tells gzip from deflate by itself."""


class AnswerReader:
    """Counts the output tokens of an answer while it passes by.

    An event of a stream with text in it counts as one token for each choice, until a `usage` says exactly. A first
    event that only names the role is no token.

    Args:
        streams: whether the answer is server-sent events.
        encoding: its content encoding, empty for none; an answer in one that Python lacks is not counted.

    Attributes:
        tokens: output tokens so far.
        ended: whether a stream has said `[DONE]`.
    """

    def __init__(self, streams: bool, encoding: bytes = b"") -> None:
        self.tokens = 0
        self.ended = False
        self._streams = streams
        self._unread = bytearray()
        encoding = encoding.strip().lower()
        self._unpack = zlib.decompressobj(_ANY_ZLIB) if encoding in _PACKED else None
        self._reads = encoding in (b"", b"identity", *_PACKED)

    def hear(self, data: bytes) -> int:
        """Read a piece of the answer.

        Args:
            data: as it came, cut anywhere.

        Returns:
            Output tokens that it brought.
        """
        if not self._reads:
            return 0
        before = self.tokens
        self._unread += self._unpacked(data)
        if len(self._unread) > MOST_READ_BYTES:
            self._reads = False
        elif self._streams and b"\n" in self._unread:
            *lines, last = self._unread.split(b"\n")
            self._unread = last
            for line in lines:
                if line.startswith(b"data:"):
                    self._event(line[5:].strip())
        return self.tokens - before

    @property
    def between_events(self) -> bool:
        """Whether a stream was last heard at the end of a line."""
        return not self._unread

    @property
    def plain(self) -> bool:
        """Whether text may be added to the answer."""
        return self._reads and self._unpack is None

    def end(self) -> None:
        """The answer is complete: read the usage of one that did not stream."""
        if self._reads and not self._streams:
            self._event(self._unread)
            self._unread = bytearray()

    def _unpacked(self, data: bytes) -> bytes:
        if self._unpack is None:
            return data
        try:
            return self._unpack.decompress(data)
        except zlib.error:
            self._reads = False
            return b""

    def _event(self, text: bytearray) -> None:
        if text == b"[DONE]":
            self.ended = True
            return
        try:
            data = json.loads(text)
        except (ValueError, RecursionError):
            return
        if not isinstance(data, dict):
            return
        usage, choices = data.get("usage"), data.get("choices")
        if isinstance(choices, list):
            self.tokens += sum(_says_something(choice) for choice in choices)
        told = usage.get("completion_tokens") if isinstance(usage, dict) else None
        if isinstance(told, int):
            self.tokens = max(told, 0)


def _says_something(choice: object) -> bool:
    if not isinstance(choice, dict):
        return False
    delta = choice.get("delta") or choice.get("message")
    spoken = delta if isinstance(delta, dict) else choice
    return any(spoken.get(name) for name in ("text", "content", "reasoning_content", "reasoning", "tool_calls"))
