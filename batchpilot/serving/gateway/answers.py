"""What a gateway reads in answers while they pass by: output tokens, and what became of the request."""

from __future__ import annotations

import zlib
from collections.abc import Callable, Iterable, Iterator

from batchpilot.serving.answers import AnswerReader
from batchpilot.serving.dialects import BACKGROUND
from batchpilot.serving.outcomes import FAILED, refusal
from batchpilot.serving.texts import count_by_bytes

MOST_READ_BYTES = 2**24
"""Of an answer that comes whole, or of one event: what is longer passes and is not judged."""

INVALID, UNREAD = "invalid", "unread"
"""Ends that are no fault of the upstream: a request that cannot be served, an answer that cannot be read here or comes
another way."""

_KEPT_BYTES = 4096
"""Of an error, to tell what it says."""

USUAL_RATIO = 32
"""Of a compressed answer at most so many bytes for each that came are inflated, and beside those..."""

STREAM_BYTES = 2**20
"""... so many of a stream, whose lines cost time, or `MOST_READ_BYTES` of an answer that comes whole."""

_STEP_BYTES = 2**18
"""Inflated at a time."""

_STREAMS = {b"text/event-stream": True, b"application/json": False}

_PACKED = (b"gzip", b"x-gzip", b"deflate")
_ANY_ZLIB = 47
"""`zlib` tells gzip from deflate by itself."""


class PassingAnswer:
    """Reads an answer while it passes by.

    Args:
        status: HTTP status.
        kind: its content type.
        encoding: its content encoding, empty for none; an answer in one that Python lacks is not read.
        tokens_per_event: as in `AnswerReader`.
        count: tokens of a text.
        streams: whether a stream was asked for, which decides where the content type does not say.
        most: as in `AnswerReader`.

    Attributes:
        reader: what has been read so far.
    """

    def __init__(
        self,
        status: int,
        kind: bytes,
        encoding: bytes = b"",
        tokens_per_event: float = 1.0,
        count: Callable[[str], int] = count_by_bytes,
        *,
        streams: bool = True,
        most: int | None = None,
    ) -> None:
        streams = _STREAMS.get(kind.partition(b";")[0].strip().lower(), streams)
        self.reader = AnswerReader(streams, tokens_per_event, count, most)
        self._status = status
        self._error = b""
        self._room = STREAM_BYTES if streams else MOST_READ_BYTES
        encoding = encoding.strip().lower()
        self._unpack = zlib.decompressobj(_ANY_ZLIB) if encoding in _PACKED else None
        self._reads = encoding in (b"", b"identity", *_PACKED)

    @property
    def readable(self) -> bool:
        """Whether what has come could be read."""
        return self._reads

    @property
    def plain(self) -> bool:
        """Whether text may be added to the answer."""
        return self._reads and self._unpack is None

    def hear(self, data: bytes) -> int:
        """Read a piece of the answer.

        Args:
            data: as it came, cut anywhere.

        Returns:
            Output tokens that it brought.
        """
        if not self._reads:
            return 0
        pieces: Iterable[bytes] = (data,) if self._unpack is None else self._inflated(data)
        return sum(self._hear(piece) for piece in pieces)

    def ended(self, complete: bool = True) -> tuple[str, str]:
        """The answer is over.

        Args:
            complete: whether the connection ended as it should.

        Returns:
            What became of the request, one of `batchpilot.serving.outcomes`, `INVALID` or `UNREAD`, and why.
        """
        told = self._error.decode(errors="replace")
        if self._status >= 400:
            reason = refusal(self._status, told)
            invalid = reason == FAILED and self._status < 500 and complete
            return (INVALID if invalid else reason), f"{self._status}: {told}"
        if self._status != 200:
            return FAILED, f"status {self._status} is no answer"
        if not self._reads:
            return (UNREAD if complete else FAILED), "an encoding or a length that is not read"
        self.reader.end()
        if self.reader.finish_reason == BACKGROUND:
            return UNREAD, "it is generated in the background"
        reason, why = self.reader.judged()
        return reason, why or "the answer is no completion"

    def _hear(self, data: bytes) -> int:
        if self._status != 200:
            self._error += data[: _KEPT_BYTES - len(self._error)]
            return 0
        brought = self.reader.hear(data)
        self._reads = self._reads and self.reader.unread_bytes <= MOST_READ_BYTES
        return brought

    def _inflated(self, data: bytes) -> Iterator[bytes]:
        assert self._unpack is not None
        self._room += USUAL_RATIO * len(data)
        more = True
        while more and self._reads:
            try:
                piece = self._unpack.decompress(data, _STEP_BYTES)
            except zlib.error:
                self._reads = False
                return
            self._room -= len(piece)
            self._reads = self._room >= 0
            data = self._unpack.unconsumed_tail
            more = bool(data) or len(piece) == _STEP_BYTES
            yield piece
