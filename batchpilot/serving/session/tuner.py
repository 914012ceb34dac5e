"""A tuner in a server: asked and told where it can do no harm. What it raises is counted, its last good limits stay."""

from __future__ import annotations

import threading
import time
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, TypeVar

from batchpilot.core import Limits, Tuner, WindowMetrics
from batchpilot.core.details import WindowDetails

Answer = TypeVar("Answer")

LONGEST_LOOK_S = 0.1
"""Whoever asks for a status waits no longer for a tuner that thinks."""


@dataclass(frozen=True, slots=True)
class Advice:
    """What a tuner answered.

    Attributes:
        limits: to be put into force.
        estimate: what it believes a step costs, nine saturation parameters; None for no opinion.
        reason: why, in its words.
    """

    limits: Limits
    estimate: tuple[float, ...] | None = None
    reason: str = ""


class ContainedTuner:
    """One tuner behind a lock, its exceptions contained.

    Args:
        tuner: any.
        limits: to begin with if it cannot even be asked.

    Attributes:
        tuner: as given.
        advice: its last good answer.
        errors: how often it raised, or answered something that is no limits.
        last_error: the last time's, None for never.
        tells: windows it has heard.
        tell_ms: how long the last of them took it, wall clock.
    """

    def __init__(self, tuner: Tuner, limits: Limits) -> None:
        self.tuner = tuner
        self.errors = self.tells = 0
        self.last_error: str | None = None
        self.tell_ms = 0.0
        self._status: dict[str, Any] = {}
        self._lock = threading.Lock()
        self.advice = Advice(limits)
        self._ask()

    @property
    def needs_details(self) -> bool:
        """Whether it studies a window's details."""
        return bool(getattr(self.tuner, "needs_details", False))

    @property
    def quick(self) -> bool:
        """Whether its very class says that a tell takes no time worth the name."""
        return vars(type(self.tuner)).get("quick") is True and "tell" not in getattr(self.tuner, "__dict__", ())

    def decide(self, window: WindowMetrics, details: WindowDetails | None) -> Advice:
        """Tell a window and ask for what comes next.

        Args:
            window: as measured.
            details: for a tuner that needs them.
        """
        with self._lock:
            started = time.perf_counter()
            self._contain(lambda: self._tell(window, details))
            self._ask()
            self.tell_ms = 1000.0 * (time.perf_counter() - started)
            self.tells += 1
            return self.advice

    def command(self, action: Callable[[Tuner], Answer]) -> Answer:
        """Do something with the tuner while nobody else does, then ask it again.

        Args:
            action: what; its exceptions are the caller's, since the caller asked for it.

        Returns:
            What the action returned.
        """
        with self._lock:
            answer = action(self.tuner)
            self._ask()
            return answer

    def status(self) -> dict[str, Any]:
        """The tuner's own status, empty if it has none to give; the last one while it thinks for long."""
        if self._lock.acquire(timeout=LONGEST_LOOK_S):
            try:
                self._status = self._contain(self.tuner.status) or {}
            finally:
                self._lock.release()
        return dict(self._status)

    def _tell(self, window: WindowMetrics, details: WindowDetails | None) -> None:
        if details is not None:
            self.tuner.study(details)
        self.tuner.tell(window)

    def _ask(self) -> None:
        self.advice = self._contain(self._asked) or self.advice

    def _asked(self) -> Advice:
        limits = self.tuner.ask()
        if not isinstance(limits, Limits):
            raise TypeError(f"ask() answered {limits!r}, which is no Limits")
        estimate = getattr(self.tuner, "estimate", None)
        believed = None if estimate is None else tuple(float(value) for value in estimate)
        last = self.advice
        same = limits is last.limits or limits == last.limits
        if same and believed == last.estimate:
            return last
        return Advice(limits, believed, last.reason if same else str(self.tuner.status().get("reason", "")))

    def _contain(self, action: Callable[[], Answer]) -> Answer | None:
        try:
            return action()
        except Exception as error:  # noqa: BLE001 (a server must outlive whatever its tuner does)
            self.errors += 1
            self.last_error = f"{type(error).__name__}: {error}"
            return None
