"""One request between the coroutine that answers its client and the thread that runs the engine."""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass
from typing import NamedTuple

from batchpilot.core.sampling import Sampling
from batchpilot.workloads.prompt_images import PromptImage

ENDED_WELL = ("length", "stop")


class Piece(NamedTuple):
    """What a client should hear next.

    Attributes:
        token: the next token, None for none.
        finished: why the request has ended, as `live_events.Event` says, "invalid", "shutting_down" or
            "engine_error"; None while it goes on. Nothing comes after it.
        mistake: why the engine cannot take it, where it is "invalid".
        wait_ms: with the end of one that was not served, the predicted TTFT of another like it; NaN if unknown.
        logprobs: the token's log probability, and ids of the likeliest tokens with theirs; None where nobody asked.
    """

    token: int | None
    finished: str | None = None
    mistake: str | None = None
    wait_ms: float = math.nan
    logprobs: tuple[float, tuple[tuple[int, float], ...]] | None = None


Heard = tuple[int, Piece]
"""A piece, and which of a request's choices it is of."""


class Outlet:
    """Where the pieces of one choice go: the choices of a request share a queue. Used in the event loop only.

    Args:
        put: into the queue of the request.
        choice: whose pieces come here.
    """

    def __init__(self, put: Callable[[Heard], None], choice: int) -> None:
        self._put, self._choice = put, choice

    def put_nowait(self, piece: Piece) -> None:
        """Say it.

        Args:
            piece: the next one.
        """
        self._put((self._choice, piece))


@dataclass(frozen=True, slots=True)
class Order:
    """What is asked of the engine.

    Attributes:
        prompt: token ids.
        max_tokens: most tokens to generate.
        sampling: how.
        ttft_target_ms: its promise.
        tpot_target_ms: likewise.
        priority: "high", "normal" or "low".
        user: whose it is.
        arrived_s: when it came, by the engine loop's clock.
        images: in the prompt.
    """

    prompt: list[int]
    max_tokens: int
    sampling: Sampling
    ttft_target_ms: float
    tpot_target_ms: float
    priority: str
    user: str | None
    arrived_s: float
    images: tuple[PromptImage, ...] = ()


@dataclass(eq=False, slots=True, weakref_slot=True)
class Generation:
    """A request in the server.

    Attributes:
        order: what was asked.
        pieces: hears what the engine says, in order.
        number: the engine's id, None until it has one.
        first_s: when its first token came, by the engine loop's clock; None before.
        tokens: how many tokens came.
        cancelled: whether nobody wants the answer any more.
        satisfied: whether it was cut short because its client has all it asked for (a stop string).
        ended: whether its last piece has been said.
        given_up: whether that was a refusal told before the engine looked at it; the engine refuses it too.
    """

    order: Order
    pieces: Outlet
    number: int | None = None
    first_s: float | None = None
    tokens: int = 0
    cancelled: bool = False
    satisfied: bool = False
    ended: bool = False
    given_up: bool = False
