"""What encoding images costs an engine, as its windows tell: of how many requests, and how long. Times in ms.

A server counts images and the time that their encoding took; it names no request that has one. So of the requests to
come some, drawn by chance, have an image that is to be encoded, and each such image takes the mean time.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import numpy as np

from batchpilot.core import WindowMetrics

MEMORY_MS = 60_000.0
"""How far back windows are remembered."""


class Encoding:
    """Encoding in the recent past.

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
        encoded = metrics.images - metrics.image_hits
        told = np.array([[metrics.end_ms, encoded, metrics.encode_ms, metrics.admitted_prompt_tokens]], np.float64)
        if not np.isfinite(told).all() or (told < 0).any():
            return
        ends_ms = self._windows[:, 0]
        recent = self._windows[(ends_ms > metrics.end_ms - self._memory_ms) & (ends_ms < metrics.end_ms)]
        self._windows = np.concatenate([recent, told])

    @property
    def image_ms(self) -> float:
        """Mean time of an image that was encoded; 0 where none was, or where windows tell of none."""
        _, encoded, encode_ms, _ = self._windows.sum(axis=0).tolist()
        return encode_ms / encoded if encoded > 0 else 0.0

    def share(self, mean_prompt: float) -> float:
        """Share of the requests let in whose image had to be encoded, 0 to 1.

        Args:
            mean_prompt: prompt tokens of a request, > 0: windows count the tokens that were let in, not the requests.
        """
        return min(self._each(mean_prompt), 1.0)

    def request_ms(self, mean_prompt: float) -> float:
        """Mean time of the images of a request that has some to be encoded: of one, or of several where they are more.

        Args:
            mean_prompt: prompt tokens of a request, > 0.
        """
        return self.image_ms * max(self._each(mean_prompt), 1.0)

    def _each(self, mean_prompt: float) -> float:
        """Images that were encoded for each request that was let in."""
        _, encoded, encode_ms, tokens = self._windows.sum(axis=0).tolist()
        return float(encoded * mean_prompt / tokens) if encode_ms > 0 and tokens > 0 else 0.0

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
