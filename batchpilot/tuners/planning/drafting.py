"""What a server drafts by itself, as its windows tell: how many tokens at a time, and how many of them stand.

Only drafts that no limit asks for: a server was started with them. What they cost is in the steps that are heard.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import numpy as np

from batchpilot.core import WindowMetrics
from batchpilot.core.speculation import Speculation

MEMORY_MS = 60_000.0
"""How far back windows are remembered."""

_BISECTIONS = 40


class Drafting:
    """Drafts in the recent past.

    Args:
        memory_ms: how far back windows are remembered, > 0.
    """

    def __init__(self, memory_ms: float = MEMORY_MS) -> None:
        self._memory_ms = memory_ms
        self._windows = np.zeros((0, 4))

    def hear(self, metrics: WindowMetrics) -> None:
        """Remember a window.

        Args:
            metrics: of a window; one heard already counts once, and one from before it is of another run.
        """
        if len(self._windows) and metrics.end_ms == self._windows[-1, 0]:
            return
        own = metrics.limits.speculative_tokens == 0
        counts = (metrics.drafts, metrics.drafted_tokens, metrics.accepted_tokens) if own else (0, 0, 0)
        told = np.array([[metrics.end_ms, *counts]], np.float64)
        if not np.isfinite(told).all() or (told < 0).any():
            return
        ends_ms = self._windows[:, 0]
        recent = self._windows[(ends_ms > metrics.end_ms - self._memory_ms) & (ends_ms < metrics.end_ms)]
        self._windows = np.concatenate([recent, told])

    @property
    def speculation(self) -> Speculation | None:
        """How the server's own drafts fare, each token as likely as the others; None where it makes none."""
        _, drafts, drafted, accepted = self._windows.sum(axis=0).tolist()
        length = round(drafted / drafts) if drafts > 0 else 0
        if length < 1:
            return None
        low, high = 0.0, 1.0
        for _ in range(_BISECTIONS):
            middle = (low + high) / 2
            few = Speculation(acceptance=middle).expected_tokens(length) - 1.0 < accepted / drafts
            low, high = (middle, high) if few else (low, middle)
        return Speculation(acceptance=low, draft_share=0.0, drafted=length)

    @property
    def tokens_a_step(self) -> float:
        """Mean tokens that a request says in a step."""
        said = self.speculation
        return 1.0 if said is None else said.expected_tokens(said.drafted)

    def state_dict(self) -> dict[str, Any]:
        """What is remembered as plain data."""
        return {"windows": self._windows.tolist()}

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        """Go on from saved memories.

        Args:
            state: what `state_dict` returned.

        Raises:
            KeyError: it is none.
        """
        self._windows = np.array(state["windows"], np.float64).reshape(-1, 4)
