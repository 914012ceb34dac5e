"""Lines of a stream of server-sent events, as its bytes come.

Source: HTML standard, "Interpreting an event stream": lines end in LF, CR or CRLF, mixed at will, and one byte order
mark at the beginning says nothing.
"""

from __future__ import annotations

_MARK = b"\xef\xbb\xbf"


class EventLines:
    """Cuts a stream into its lines, wherever the network cut it.

    A line that ends in CR is told at once, as no more may come for long; an LF that comes next belongs to it.

    Attributes:
        unread: the beginning of a line whose end has not come.
    """

    def __init__(self) -> None:
        self.unread = b""
        self._begun = self._after_return = False

    def hear(self, data: bytes) -> list[bytes]:
        """Read a piece of the stream.

        Args:
            data: as it came, cut anywhere.

        Returns:
            The lines that end in it, without their ends.
        """
        if self._after_return and data:
            data, self._after_return = data.removeprefix(b"\n"), False
        text = self.unread + data if self.unread else data
        if not self._begun:
            if len(text) < len(_MARK) and _MARK.startswith(text):
                self.unread = text
                return []
            text, self._begun = text.removeprefix(_MARK), True
        if b"\r" in data:
            self._after_return = data.endswith(b"\r")
            text = text.replace(b"\r\n", b"\n").replace(b"\r", b"\n")
        *lines, self.unread = text.split(b"\n")
        return lines

    def end(self) -> bytes:
        """The stream is over: the line that nothing ended, empty for none."""
        rest, self.unread = self.unread, b""
        return rest
