"""How many bytes of request bodies a server holds at once: many that are half sent do not fill its memory."""

from __future__ import annotations

from types import TracebackType

MOST_MB = 256.0
"""Of all bodies together, where nothing else is said; or one body, where one may be larger."""

ALWAYS_TAKEN = 2**16
"""Bytes of each body that are not counted: connections bound them, and large bodies keep no ordinary request out."""

RETRY_S = 5
"""Half of a body waits no longer than 30 s, and most go sooner."""


class BodiesFullError(Exception):
    """A body for which there is no room beside those that are held."""


class Bodies:
    """The bodies that are held now.

    Args:
        most_bytes: of all of them together, as far as they are counted.

    Attributes:
        held_bytes: what is counted now.
    """

    def __init__(self, most_bytes: float) -> None:
        self.held_bytes = 0
        self.most_bytes = most_bytes

    def share(self, told: int | None) -> Share:
        """What one request holds; to be entered before its body is read and left when the body is let go.

        Args:
            told: the body's length as its request tells it, None for unknown.

        Raises:
            BodiesFullError: there is no room for so much; on entering.
        """
        return Share(self, told or 0)

    def check(self, more: int) -> None:
        """Whether there is room.

        Args:
            more: bytes.

        Raises:
            BodiesFullError: there is not.
        """
        if more > 0 and self.held_bytes + more > self.most_bytes:
            raise BodiesFullError(
                f"bodies of other requests hold {self.held_bytes} of {self.most_bytes:.0f} bytes, and this one needs "
                f"{more} more; try again in {RETRY_S} s"
            )


class Share:
    """What one request holds of `Bodies`."""

    def __init__(self, bodies: Bodies, told: int) -> None:
        self._bodies, self._told = bodies, told
        self._bytes = self._counted = 0

    def __enter__(self) -> Share:
        """Begin, if what is told finds room."""
        self._bodies.check(self._told - ALWAYS_TAKEN)
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        """Let go of everything."""
        self._bodies.held_bytes -= self._counted
        self._counted = 0

    def grow(self, size: int) -> None:
        """More of the body has come.

        Args:
            size: bytes.

        Raises:
            BodiesFullError: there is no room for them.
        """
        self._bytes += size
        more = max(self._bytes - ALWAYS_TAKEN, 0) - self._counted
        self._bodies.check(more)
        self._bodies.held_bytes += more
        self._counted += more
