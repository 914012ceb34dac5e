"""What came of an answer before its first token: kept back while another upstream could still answer in its place."""

from __future__ import annotations

from dataclasses import dataclass

from batchpilot.serving.gateway.answers import PassingAnswer
from batchpilot.serving.gateway.connection import Connection

MOST_HELD_BYTES = 2**16
"""An answer that has said so much has begun, tokens or not."""


@dataclass(frozen=True, slots=True)
class Beginning:
    """How an answer began.

    Attributes:
        said: its bytes so far, which have been heard.
        tokens: in them.
        events: in how many parts.
        verdict: what became of the request and why, as `PassingAnswer.ended` says; None while more may come.
    """

    said: bytes = b""
    tokens: int = 0
    events: int = 0
    verdict: tuple[str, str] | None = None


UNHEARD = Beginning()


async def hear_beginning(answer: Connection, passing: PassingAnswer) -> Beginning:
    """Read an answer until it has said a token, or much, or what cannot be read, or all.

    Args:
        answer: whose head has come.
        passing: hears it.

    Raises:
        UpstreamError: it broke off before.
    """
    said = b""
    while piece := await answer.piece():
        said += piece
        tokens = passing.hear(piece)
        unread = answer.status == 200 and not passing.readable
        if tokens > 0 or unread or len(said) > MOST_HELD_BYTES:
            return Beginning(said, tokens, passing.reader.events)
    return Beginning(said, verdict=passing.ended())
