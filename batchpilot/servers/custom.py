"""Any server: `tune --server custom -- my-server --port {port} --slots {batch_size}`."""

from __future__ import annotations

import re
from collections.abc import Sequence
from dataclasses import fields

from batchpilot.core.limits import Limits
from batchpilot.core.names import lookup
from batchpilot.servers.base import ServerKind

PORT = "port"
_PLACE = re.compile(r"\{(\w+)\}")


class CustomServer(ServerKind):
    """A command with places for the port and for the limits that it takes.

    Args:
        command: words after `--`, `{port}` and a place for a limit or more among them: `{batch_size}`,
            `{token_budget}`.

    Raises:
        ValueError: no place for the port or for any limit, or a place for something else.
    """

    name = "custom"

    def __init__(self, command: Sequence[str]) -> None:
        super().__init__(command)
        self._command = list(command)
        places = dict.fromkeys(_PLACE.findall(" ".join(command)))
        known = dict.fromkeys([PORT, *(field.name for field in fields(Limits))])
        for place in places:
            lookup(known, place, "place in the command of --server custom")
        self.movable = tuple(place for place in places if place != PORT)
        if PORT not in places or not self.movable:
            raise ValueError("--server custom needs {port} and a limit such as {batch_size} in its command")
        budget = 2048 if "token_budget" in self.movable else None
        queued = 32768 if "max_queued_tokens" in self.movable else None
        self.base, self.facts = Limits(256, budget, queued), {}

    def words(self, limits: Limits, port: int) -> list[str]:
        """See `ServerKind`."""
        given = limits.to_dict() | {PORT: port}
        return [_PLACE.sub(lambda place: str(given[place[1]]), word) for word in self._command]
