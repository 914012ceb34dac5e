"""What a tuner may hear besides a window's metrics: its steps, its requests, and who is in flight. Times in ms."""

from __future__ import annotations

import math
from dataclasses import dataclass, replace
from typing import Any

import numpy as np
from numpy.typing import NDArray

IN_FLIGHT = np.dtype(
    [
        ("arrival_ms", "f8"),
        ("prompt_tokens", "i8"),
        ("ttft_target_ms", "f8"),
        ("tpot_target_ms", "f8"),
        ("computed_tokens", "i8"),
        ("generated_tokens", "i8"),
        ("first_token_ms", "f8"),
        ("cached_tokens", "i8"),
    ]
)
"""One request as a server knows it, its output length not among it; `first_token_ms` is NaN before the first token.
`computed_tokens` are in the KV cache, those found for a request that waits among them; `cached_tokens` of its prompt
were found when it came, or at its turn."""


@dataclass(frozen=True, slots=True, eq=False)
class WindowDetails:
    """What a server knows of one window beyond its metrics.

    Attributes:
        now_ms: engine time at the end of the window.
        steps: rows of (start_ms, B, S, C, T_ms) of its steps, shape (n, 5).
        arrivals: records of `IN_FLIGHT` of the requests that arrived in it.
        output_tokens: generated tokens of the requests that finished by length in it, shape (n,).
        running: records of the requests that run at its end, in order of admission.
        waiting: records of those that wait.
    """

    now_ms: float
    steps: NDArray[np.float64]
    arrivals: NDArray[Any]
    output_tokens: NDArray[np.int64]
    running: NDArray[Any]
    waiting: NDArray[Any]


LONGEST_TOKENS = 2**20
"""No prompt or output is believed to be longer."""

MOST_REQUESTS = 4096
"""So many of the newest arrivals, of the running and of the first waiting requests are believed in."""

_LATEST_MS = 1e15


def believable(details: WindowDetails) -> WindowDetails | None:
    """Details without what cannot be: a request of no size, a time that is none, a target at or below zero.

    Args:
        details: as a server tells them.

    Returns:
        None where not even the time can be believed.
    """
    if not 0.0 <= details.now_ms < _LATEST_MS:
        return None
    steps = details.steps
    if not np.isfinite(steps).all():
        steps = steps[np.isfinite(steps).all(axis=1)]
    outputs = details.output_tokens
    return replace(
        details,
        steps=steps,
        arrivals=_believable(details.arrivals, details.now_ms)[-MOST_REQUESTS:],
        output_tokens=outputs[(outputs >= 1) & (outputs <= LONGEST_TOKENS)],
        running=_believable(details.running, details.now_ms)[:MOST_REQUESTS],
        waiting=_believable(details.waiting, details.now_ms)[:MOST_REQUESTS],
    )


def _believable(requests: NDArray[Any], now_ms: float) -> NDArray[Any]:
    """Records that can be; no prompt is empty, targets that are none are infinite, progress is within what there is."""
    believed = (requests["arrival_ms"] <= now_ms) & (requests["arrival_ms"] > -_LATEST_MS)
    for column in ("prompt_tokens", "generated_tokens"):
        believed &= (requests[column] >= 0) & (requests[column] <= LONGEST_TOKENS)
    requests = requests[believed]
    requests["prompt_tokens"] = np.maximum(requests["prompt_tokens"], 1)
    for column in ("ttft_target_ms", "tpot_target_ms"):
        requests[column][~(requests[column] > 0)] = math.inf
    requests["computed_tokens"] = np.clip(
        requests["computed_tokens"], 0, np.maximum(requests["prompt_tokens"] + requests["generated_tokens"] - 1, 0)
    )
    requests["cached_tokens"] = np.clip(requests["cached_tokens"], 0, np.maximum(requests["prompt_tokens"] - 1, 0))
    early = ~(requests["first_token_ms"] >= requests["arrival_ms"]) | (requests["first_token_ms"] > now_ms)
    requests["first_token_ms"] = np.where(requests["generated_tokens"] == 0, math.nan, requests["first_token_ms"])
    requests["first_token_ms"][early & (requests["generated_tokens"] > 0)] = now_ms
    return requests
