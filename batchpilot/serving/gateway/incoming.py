"""What has come of an HTTP/1.1 answer on one connection, read as it comes by a compiled parser."""

from __future__ import annotations

import httptools

Headers = list[tuple[bytes, bytes]]

MOST_HEAD_BYTES = 2**16
"""Of an answer's head, with the interim ones before it; of trailers, and of what stands between two chunks."""

_LENGTHS = (b"content-length", b"transfer-encoding")


class Incoming:
    """What has come of an answer; methods that begin with `on_` are the parser's.

    Attributes:
        status: 0 before the head has come.
        headers: as they came.
        pieces: of the body, unread.
        unread_bytes: in them.
        too_large: whether its head, its trailers, or what stands between two of its chunks are.
        told: whether the head has come.
        complete: whether everything has.
    """

    def __init__(self) -> None:
        self.status = self.unread_bytes = self._head_bytes = 0
        self.too_large = False
        self.headers: Headers = []
        self.pieces: list[bytes] = []
        self.told = self.complete = True
        self._bodiless = self._keeps_alive = False
        self._parser = httptools.HttpResponseParser(self)

    @property
    def reusable(self) -> bool:
        """Whether the connection can carry another request."""
        return self.complete and self._keeps_alive

    def expect(self, *, bodiless: bool) -> None:
        """A request goes out.

        Args:
            bodiless: whether its answer has no body whatever its headers say.
        """
        self._bodiless = bodiless
        self._keeps_alive = self.told = self.complete = False
        self.pieces, self.unread_bytes, self._head_bytes = [], 0, 0

    def feed(self, data: bytes) -> None:
        """Read a part of the answer, cut anywhere."""
        self._head_bytes += len(data)
        self._parser.feed_data(data)
        self.too_large |= self._head_bytes > MOST_HEAD_BYTES

    def take(self) -> bytes:
        """What is unread of the body, at least one piece."""
        said = self.pieces[0] if len(self.pieces) == 1 else b"".join(self.pieces)
        self.pieces.clear()
        self.unread_bytes = 0
        return said

    def ends_with_connection(self) -> bool:
        """The connection is gone: whether that is how this answer says its end."""
        bounded = any(name.lower() in _LENGTHS for name, _ in self.headers)
        self.complete = self.told and not bounded
        return self.complete

    def on_message_begin(self) -> None:
        """An answer begins, an interim one among them."""
        self.headers = []

    def on_header(self, name: bytes, value: bytes) -> None:
        """One header, or trailer."""
        if not self.told:
            self.headers.append((name, value))

    def on_headers_complete(self) -> None:
        """The head has come."""
        self.status = self._parser.get_status_code()
        # Heads below 200 announce the answer, and are not it.
        self.too_large = sum(len(name) + len(value) for name, value in self.headers) > MOST_HEAD_BYTES
        self.told = self.status >= 200 and not self.too_large
        self.complete = self.told and self._bodiless
        if self.told:
            self._head_bytes = 0

    def on_body(self, data: bytes) -> None:
        """A piece of the body."""
        self._head_bytes = 0
        if not self._bodiless:
            self.pieces.append(data)
            self.unread_bytes += len(data)

    def on_message_complete(self) -> None:
        """Everything has come."""
        if self.told:
            self.complete = True
            self._keeps_alive = self._parser.should_keep_alive() and not self._bodiless
