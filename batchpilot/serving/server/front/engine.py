"""The engine as the process that clients meet sees it: requests go out by the wire, their pieces come back by step."""

from __future__ import annotations

import itertools
import time
from collections.abc import Callable, Iterable
from dataclasses import dataclass, field
from typing import Any

from batchpilot.serving.server.config import ServerConfig
from batchpilot.serving.server.front.wire import Opening, Wire
from batchpilot.serving.server.generation import Generation, Piece
from batchpilot.serving.server.text import Text

Said = tuple[Any, ...]
"""The number of a request and its piece, as a plain tuple, cut off after a token that is all there is to say."""


class DistantEngine:
    """Generates in another process.

    Args:
        longest: most tokens of a request, output included.
        wire: to that process.
    """

    def __init__(self, longest: int, wire: Wire) -> None:
        self._longest, self._wire = longest, wire
        self._generations: dict[int, Generation] = {}
        self._numbers = itertools.count()
        self._gone = False

    @property
    def longest(self) -> int:
        """Most tokens of a request, output included."""
        return self._longest

    def submit(self, generation: Generation) -> None:
        """A request comes; all that follows comes as its pieces, exactly one of them with an end.

        Args:
            generation: of no earlier call.
        """
        number = generation.number = next(self._numbers)
        self._generations[number] = generation
        self._wire.say("submit", number, generation.order)
        if self._gone:
            self.lose()

    def cancel(self, generation: Generation, *, satisfied: bool = False) -> None:
        """Nobody wants the rest of an answer.

        Args:
            generation: one that was submitted.
            satisfied: whether its client has all it asked for.
        """
        generation.satisfied = satisfied
        generation.cancelled = True
        self._wire.say("cancel", generation.number, satisfied)

    def hear(self, said: Iterable[Said]) -> None:
        """What the engine said in a step.

        Args:
            said: its pieces.
        """
        generations = self._generations
        for number, *told in said:
            piece, generation = Piece(*told), generations[number]
            if piece.finished is not None:
                generation.ended = True
                del generations[number]
            generation.pieces.put_nowait(piece)

    def lose(self) -> None:
        """The other process has gone: everybody hears so, whoever comes too."""
        self._gone = True
        self.hear([(number, None, "engine_error") for number in self._generations])


@dataclass
class Front:
    """What answers completions in the process that clients meet; its attributes are those of `Service`."""

    config: ServerConfig
    engine: DistantEngine
    text: Text
    started: int
    clock: Callable[[], float] = time.perf_counter
    draining: bool = False
    seeds: itertools.count[int] = field(default_factory=itertools.count)

    def __post_init__(self) -> None:
        self.seeds = itertools.count(self.config.seed << 32)

    @classmethod
    def of(cls, opening: Opening, wire: Wire) -> Front:
        """As the engine's process says.

        Args:
            opening: its first message.
            wire: to it.
        """
        return cls(opening.config, DistantEngine(opening.longest, wire), opening.text, opening.started)
