"""A server that takes limits as flags of its own."""

from __future__ import annotations

from collections.abc import Sequence
from typing import ClassVar

from batchpilot.core.limits import Limits
from batchpilot.servers.base import ServerKind
from batchpilot.serving.formats.flags import ServerFlags


class FlaggedServer(ServerKind):
    """A server whose flags are known; its program may be left out of the command.

    Args:
        command: words after `--`: `serve MODEL ...`, or with the program before.

    Attributes:
        flags: how it says limits.
        before: what starts it where the command leaves the program out.

    Raises:
        ValueError: the command is not of this server, or states a limit that is none.
    """

    flags: ClassVar[ServerFlags]
    before: ClassVar[tuple[str, ...]]

    def __init__(self, command: Sequence[str]) -> None:
        super().__init__(command)
        self._started = self.flags.read(self._whole(command))
        self.base, self.facts = self._started.limits, self._started.facts
        self.movable = tuple(self.flags.limits)

    def words(self, limits: Limits, port: int) -> list[str]:
        """See `ServerKind`."""
        elsewhere = self._started.without("--port", "--host")
        model = [self._started.model] if self.flags.positional and self._started.model else []
        address = ["--host", "127.0.0.1", "--port", str(port)]
        return [*self._started.program, *model, *elsewhere, *self.flags.flags(limits), *address]

    def _whole(self, command: Sequence[str]) -> list[str]:
        try:
            self.flags.read(command)
        except ValueError as error:
            if "is no command of" not in str(error):
                raise
            return [*self.before, *command]
        return list(command)
