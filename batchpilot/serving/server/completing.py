"""What the routes of completions need, wherever they run: in the engine's process, or in one of their own before it."""

from __future__ import annotations

import itertools
from collections.abc import Callable
from typing import Protocol

from batchpilot.serving.server.config import ServerConfig
from batchpilot.serving.server.generation import Generation
from batchpilot.serving.server.text import Text


class Generating(Protocol):
    """What generates: the thread that owns the engine, or the way to it."""

    @property
    def longest(self) -> int:
        """Most tokens of a request, output included."""

    def submit(self, generation: Generation) -> None:
        """A request comes; all that follows comes as its pieces, exactly one of them with an end.

        Args:
            generation: of no earlier call; its lengths are those of the engine.
        """

    def cancel(self, generation: Generation, *, satisfied: bool = False) -> None:
        """Nobody wants the rest of an answer.

        Args:
            generation: one that was submitted; one that has ended stays as it is.
            satisfied: whether its client has all it asked for, which is no cancellation to the metrics.
        """


class Completing(Protocol):
    """Who answers completions; the attributes are those of `Service`."""

    @property
    def config(self) -> ServerConfig:
        """How it answers."""

    @property
    def engine(self) -> Generating:
        """What generates."""

    @property
    def text(self) -> Text:
        """From text to tokens and back."""

    @property
    def clock(self) -> Callable[[], float]:
        """Seconds."""

    @property
    def draining(self) -> bool:
        """Whether it is shutting down and takes no new request."""

    @property
    def seeds(self) -> itertools.count[int]:
        """Of requests that bring none."""

    @property
    def started(self) -> int:
        """Seconds since the epoch."""
