"""What a live engine tells after a step: tokens, ends, and what the step was."""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import NamedTuple

from batchpilot.engines.torch.shaping import Logprobs

OUT_OF_MEMORY = "out of memory"
"""`LiveStep.failure` of a step that the device had no memory for."""


class Event(NamedTuple):
    """What a request's client should hear.

    Attributes:
        request: id that `submit` gave.
        token: its next token, None for none. Where drafts stood, a step has several events of a request, in order.
        finished: why it has ended, None while it goes on: "length", "stop", "cancelled", "refused_on_arrival",
            "refused_by_guard" or "failed". Every request gets exactly one event with a reason, and none after it.
        logprobs: of the token, where the request asked for them.
    """

    request: int
    token: int | None
    finished: str | None
    logprobs: Logprobs | None = None


@dataclass(frozen=True, slots=True)
class LiveStep:
    """What a call of `LiveEngine.step` did.

    Attributes:
        events: tokens and ends since the last step, ends by `submit` and `cancel` included.
        batch_size: requests in the step, 0 when there was nothing to run.
        tokens: tokens computed.
        context_tokens: tokens read by attention.
        duration_ms: step time.
        failure: why the step failed, None if it did not; its requests are tried again.
        wake_ms: how long until a padded batch that accumulates is due; infinity when only an arrival brings work.
    """

    events: list[Event]
    batch_size: int = 0
    tokens: int = 0
    context_tokens: int = 0
    duration_ms: float = 0.0
    failure: str | None = None
    wake_ms: float = math.inf
