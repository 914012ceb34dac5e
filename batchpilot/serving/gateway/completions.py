"""What a gateway reads in completion requests: lengths, promises, urgency. Lengths in tokens, times in ms.

Requests are only read: what is forwarded are the bytes as they came.
"""

from __future__ import annotations

import json
import math
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any

from batchpilot.core import SLO
from batchpilot.core.slo import SLO_CLASSES
from batchpilot.serving.gateway.prompts import choices, prompt_tokens, whole
from batchpilot.serving.texts import TokenCount

SLO_HEADER = "x-slo-class"
"""Names one of `SLO_CLASSES` for one request."""

PRIORITY_HEADER = "x-priority"
"""`high`, `normal` or `low`; the body's `priority`, where a smaller number is more urgent, goes before it."""

_PRIORITIES = {"high": 0, "normal": 1, "low": 2}


@dataclass(frozen=True, slots=True)
class Completion:
    """What a gateway wants to know of a completion request.

    Attributes:
        prompt_tokens: estimated, >= 1.
        streams: whether the answer comes token by token.
        max_tokens: most output tokens asked for, None where the request does not say; 0 where only the prompt's log
            probabilities are wanted.
        slo: its promise.
        user: who asks, "" for unknown.
        priority: a smaller number is more urgent, 1 for ordinary.
        choices: texts that will be generated at once, >= 1.
        model: which is asked, "" for unknown.
        blocks: hashes of the prompt's leading blocks, empty where nobody wants them.
    """

    prompt_tokens: int
    streams: bool
    max_tokens: int | None
    slo: SLO
    user: str = ""
    priority: int = 1
    choices: int = 1
    model: str = ""
    blocks: tuple[int, ...] = ()

    def output_tokens(self, usual: float) -> float:
        """How long each output is taken to become.

        Args:
            usual: of requests that do not say.
        """
        return usual if self.max_tokens is None else float(self.max_tokens)


def read_completion(
    body: bytes,
    headers: Mapping[str, str],
    slo: SLO,
    count: TokenCount,
    blocks: Callable[[Mapping[str, Any]], tuple[int, ...]] | None = None,
) -> Completion | None:
    """Read a request; None for one that is no completion request, which the upstream will say better.

    Args:
        body: as it came.
        headers: by lower-case name.
        slo: the promise of requests that name none.
        count: tokens of a text.
        blocks: hashes of the prompt's leading blocks, None where nobody wants them.
    """
    try:
        data = json.loads(body)
        if not isinstance(data, dict) or not any(name in data for name in ("prompt", "messages", "input")):
            return None
        asked = (data.get(name) for name in ("max_completion_tokens", "max_output_tokens", "max_tokens"))
        most = whole(next((count for count in asked if count is not None), None))
        priority = whole(data.get("priority"))
        return Completion(
            prompt_tokens=max(prompt_tokens(data, count), 1),
            streams=data.get("stream") is True,
            max_tokens=most if most is not None and most >= 0 else None,
            slo=SLO_CLASSES.get(headers.get(SLO_HEADER, ""), slo),
            user=str(data.get("user") or ""),
            priority=_PRIORITIES.get(headers.get(PRIORITY_HEADER, ""), 1) if priority is None else priority,
            choices=choices(data),
            model=model if isinstance(model := data.get("model"), str) else "",
            blocks=() if blocks is None else blocks(data),
        )
    except (ValueError, RecursionError):
        return None


def unstreamed_slo(slo: SLO, output_tokens: float) -> SLO:
    """What a promise means for an answer that comes whole: its first token is its last.

    Args:
        slo: the promise.
        output_tokens: expected output.
    """
    return SLO(slo.ttft_ms + slo.tpot_ms * max(output_tokens - 1.0, 0.0), math.inf, slo.name)
