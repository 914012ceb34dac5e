"""What became of a request of a load test. Times in ms, lengths in tokens."""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True, slots=True)
class Answered:
    """What became of one request. Times in ms.

    Attributes:
        reason: `length` for a complete answer, `refused_on_arrival`, `refused_by_guard`, `failed` or `cancelled`.
        status: HTTP status, 0 without one.
        first_ms: time of the first token, NaN without one.
        end_ms: time of the last token of a complete answer, else of the end.
        output_tokens: how many came.
        detail: what the server said of a refusal or failure.
        counted: whether the server said itself how many tokens came; without its word an event counts as one.
        streamed: whether the answer came token by token.
        prompt_tokens: as the server counted them, None where it does not say.
        choices: how many texts came at once.
        heard_ms: when each part of it came, where the client keeps that.
    """

    reason: str
    status: int
    first_ms: float
    end_ms: float
    output_tokens: int
    detail: str = ""
    counted: bool = False
    streamed: bool = True
    prompt_tokens: int | None = None
    choices: int = 1
    heard_ms: tuple[float, ...] = ()
