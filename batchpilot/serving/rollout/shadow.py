"""A tuner that only advises: it hears every window, decides nothing, and is compared with the one that decides."""

from __future__ import annotations

import math
from typing import Any

from batchpilot.core import Limits, Tuner, WindowMetrics
from batchpilot.core.details import WindowDetails


class Shadow:
    """The adviser and what came of listening to it. What it raises is counted.

    Args:
        tuner: the adviser.

    Attributes:
        tuner: as given.
    """

    def __init__(self, tuner: Tuner) -> None:
        self.tuner = tuner
        self._windows = self._agreements = self._errors = 0
        self._log_ratio = 0.0
        self._last_error: str | None = None
        self._advice: Limits | None = None
        self._ask()

    def study(self, details: WindowDetails) -> None:
        """Pass on what is known of a window.

        Args:
            details: of the window.
        """
        if self.tuner.needs_details:
            self._try(lambda: self.tuner.study(details))

    def hear(self, window: WindowMetrics) -> None:
        """Compare what it would have set with what was set, and tell it the window.

        Args:
            window: as measured, under the other tuner's limits.
        """
        if self._advice is not None:
            self._windows += 1
            self._agreements += self._advice == window.limits
            self._log_ratio += math.log2(self._advice.batch_size / window.limits.batch_size)
        self._try(lambda: self.tuner.tell(window))
        self._ask()

    def status(self) -> dict[str, Any]:
        """The comparison, as plain data."""
        windows = self._windows
        return {
            "tuner": self.tuner.name,
            "advice": None if self._advice is None else self._advice.to_dict(),
            "windows": windows,
            "agreement": self._agreements / windows if windows else None,
            "batch_size_ratio": 2.0 ** (self._log_ratio / windows) if windows else None,
            "errors": self._errors,
            "last_error": self._last_error,
        }

    def _ask(self) -> None:
        advice: list[Limits] = []
        self._try(lambda: advice.append(self.tuner.ask()))
        if advice and isinstance(advice[0], Limits):
            self._advice = advice[0]

    def _try(self, action: Any) -> None:
        try:
            action()
        except Exception as error:  # noqa: BLE001 (an adviser must not disturb the one that decides)
            self._errors += 1
            self._last_error = f"{type(error).__name__}: {error}"
