"""What a server that can be started answers: its command with limits, and where it says that it is ready."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Mapping, Sequence

from batchpilot.core.limits import Limits


class ServerKind(ABC):
    """One server, as somebody starts it.

    - `words(limits, port)` is its command line.
    - `movable` are the limits that this command can be given.
    - `base` is what it is started with otherwise.

    Args:
        command: what was typed after `--`, without a port.

    Attributes:
        name: of the server.
        health: paths that answer 200 once it serves; the first that is not missing counts.
        base: limits as the command has them.
        movable: fields of `Limits` that it has flags for.
        facts: whole numbers that the command states, `kv_capacity_tokens` and `max_model_len` among them.
    """

    name: str
    health: tuple[str, ...] = ("/health", "/v1/models")
    base: Limits
    movable: tuple[str, ...]
    facts: Mapping[str, int]

    def __init__(self, command: Sequence[str]) -> None:
        if not command:
            raise ValueError(f"--server {self.name} needs the server's command line after --")

    @abstractmethod
    def words(self, limits: Limits, port: int) -> list[str]:
        """The words that start it.

        Args:
            limits: in force.
            port: where it listens on this machine.
        """
