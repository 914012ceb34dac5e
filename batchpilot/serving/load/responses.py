"""HTTP/1.1 responses as their bytes come: status and headers, then the body without its framing.

Written out because it is the inner loop of a load test: thousands of streams are heard by one thread, a chunk a token.
Source: RFC 9112, sections 2 to 8.
"""

from __future__ import annotations

from typing import Protocol

LONGEST_HEAD = 65536
"""Bytes of a status line with its headers, or of a line of chunked framing; a longer one is no HTTP."""

_WITHOUT_BODY = (204, 304)


class HttpError(Exception):
    """The other side does not speak HTTP as it should, or has gone; the message says how."""


class Listener(Protocol):
    """Who hears a response."""

    def head(self, status: int, headers: dict[str, str]) -> None:
        """The response begins.

        Args:
            status: its code.
            headers: by lower-case name; of repeated ones the last.
        """

    def body(self, data: bytes) -> None:
        """A piece of the body.

        Args:
            data: never empty, cut anywhere.
        """


class ResponseReader:
    """Reads one response after another from a connection.

    Attributes:
        complete: whether the present response has been heard to its end.
        begun: whether anything has been heard of it.
        keep_alive: whether the connection may carry another one.
    """

    def __init__(self) -> None:
        self.complete = True
        self.begun = False
        self.keep_alive = False
        self._listener: Listener | None = None
        self._unread = b""
        self._left = 0
        self._take = self._take_head

    def expect(self, listener: Listener) -> None:
        """A request was sent: what comes now is its response.

        Args:
            listener: hears it.
        """
        self._listener, self._take = listener, self._take_head
        self.complete = self.begun = False

    def hear(self, data: bytes) -> None:
        """Bytes came.

        Args:
            data: cut anywhere.

        Raises:
            HttpError: they are no HTTP, or nothing was asked.
        """
        if self.complete:
            raise HttpError("the server spoke without being asked")
        self.begun = True
        self._unread = self._unread + data if self._unread else data
        while not self.complete and self._take():
            pass

    def end(self) -> None:
        """No more bytes will come.

        Raises:
            HttpError: the response is not complete.
        """
        if self._take == self._take_rest:
            self.complete = True
        if not self.complete:
            raise HttpError("the server broke off its answer" if self.begun else "the server closed without an answer")

    def _say(self, data: bytes) -> None:
        if data and self._listener is not None:
            self._listener.body(data)

    def _line(self) -> bytes | None:
        line, found, rest = self._unread.partition(b"\n")
        if not found:
            if len(line) > LONGEST_HEAD:
                raise HttpError(f"a line of more than {LONGEST_HEAD} bytes: {line[:60]!r}")
            return None
        self._unread = rest
        return line.rstrip(b"\r")

    def _take_head(self) -> bool:
        head, found, rest = self._unread.partition(b"\r\n\r\n")
        if not self._unread.startswith(b"HTTP/"[: len(self._unread)]) or (not found and len(head) > LONGEST_HEAD):
            raise HttpError(f"the server does not speak HTTP/1.1: {self._unread[:60]!r}")
        if not found:
            return False
        self._unread = rest
        first, *lines = head.decode("latin-1").split("\r\n")
        version, status = _status_line(first)
        if 100 <= status < 200:
            return True
        headers = {}
        for line in lines:
            name, _, value = line.partition(":")
            headers[name.strip().lower()] = value.strip()
        connection = headers.get("connection", "").lower()
        self.keep_alive = "close" not in connection and (version == "HTTP/1.1" or "keep-alive" in connection)
        self._frame(status, headers)
        if self._listener is not None:
            self._listener.head(status, headers)
        return True

    def _frame(self, status: int, headers: dict[str, str]) -> None:
        """How the end of the body will be known."""
        if status in _WITHOUT_BODY:
            self.complete = True
        elif "chunked" in headers.get("transfer-encoding", "").lower():
            self._take = self._take_chunk_size
        elif "content-length" in headers:
            length = headers["content-length"]
            if not length.isdigit():
                raise HttpError(f"content-length is {length!r}")
            self._left = int(length)
            self.complete, self._take = self._left == 0, self._take_counted
        else:
            self.keep_alive, self._take = False, self._take_rest

    def _take_counted(self) -> bool:
        data, self._unread = self._unread[: self._left], self._unread[self._left :]
        self._left -= len(data)
        self.complete = self._left == 0
        self._say(data)
        return False

    def _take_rest(self) -> bool:
        data, self._unread = self._unread, b""
        self._say(data)
        return False

    def _take_chunk_size(self) -> bool:
        line = self._line()
        if line is None:
            return False
        try:
            self._left = int(line.partition(b";")[0], 16)
        except ValueError:
            raise HttpError(f"a chunk's size is {line[:60]!r}") from None
        self._take = self._take_chunk if self._left else self._take_trailer
        return True

    def _take_chunk(self) -> bool:
        data, self._unread = self._unread[: self._left], self._unread[self._left :]
        self._left -= len(data)
        if self._left == 0:
            self._take = self._take_chunk_end
        self._say(data)
        return bool(self._unread)

    def _take_chunk_end(self) -> bool:
        line = self._line()
        if line:
            raise HttpError(f"after a chunk comes {line[:60]!r}")
        if line is not None:
            self._take = self._take_chunk_size
        return line is not None

    def _take_trailer(self) -> bool:
        line = self._line()
        self.complete = line == b""
        return line is not None


def _status_line(line: str) -> tuple[str, int]:
    version, _, rest = line.partition(" ")
    code = rest.partition(" ")[0]
    if not (version.startswith("HTTP/1.") and code.isdigit() and len(code) == 3):
        raise HttpError(f"the server does not speak HTTP/1.1: {line[:60]!r}")
    return version, int(code)
