"""What windows of the recent past counted. Times in ms."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import numpy as np

MEMORY_MS = 60_000.0
"""How far back windows are remembered."""


class Remembered:
    """Counts of recent windows, and their sums.

    Args:
        counts: so many of each window.
    """

    def __init__(self, counts: int) -> None:
        self._windows = np.zeros((0, 1 + counts))

    def hear(self, end_ms: float, *counts: float) -> None:
        """Remember a window; what is no count >= 0 is not remembered.

        Args:
            end_ms: its end; a window heard already counts once, and one from before it is of another run.
            *counts: as many as are remembered.
        """
        if len(self._windows) and end_ms == self._windows[-1, 0]:
            return
        told = np.array([[end_ms, *counts]], np.float64)
        if not np.isfinite(told).all() or (told < 0).any():
            return
        ends_ms = self._windows[:, 0]
        recent = self._windows[(ends_ms > end_ms - MEMORY_MS) & (ends_ms < end_ms)]
        self._windows = np.concatenate([recent, told])

    def sums(self) -> list[float]:
        """The sum of each count, 0 before any window."""
        summed: list[float] = self._windows[:, 1:].sum(axis=0).tolist()
        return summed

    def state_dict(self) -> dict[str, Any]:
        """What is remembered as plain data."""
        return {"windows": self._windows.tolist()}

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        """Go on from saved memories.

        Args:
            state: what `state_dict` returned.

        Raises:
            KeyError: it is none.
            ValueError: it remembers other counts.
        """
        self._windows = np.array(state["windows"], np.float64).reshape(-1, self._windows.shape[1])
