"""What a tuner may hear besides a window's metrics: its steps, its requests, and who is in flight. Times in ms."""

from __future__ import annotations

from dataclasses import dataclass
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
    ]
)
"""One request as a server knows it, its output length not among it; `first_token_ms` is NaN before the first token."""


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
