"""From windows to limits: the tuner is told between steps, at once or in a thread of its own. Times in ms."""

from __future__ import annotations

import threading
import weakref
from collections import deque
from collections.abc import Callable
from dataclasses import dataclass, replace

from batchpilot.core import Limits, Tuner, WindowMetrics
from batchpilot.core.details import WindowDetails
from batchpilot.serving.session.engine import MeasuringEngine
from batchpilot.serving.session.tuner import Advice, ContainedTuner
from batchpilot.serving.session.window import WindowRecorder
from batchpilot.serving.session.worker import Worker

FALLBACK = Limits(8)
"""In force while a tuner cannot even be asked: the size that the source documents start from."""

LONGEST_TELL_S = 1.0
"""A tuner that thinks longer is left to it in its thread: the last good limits stand, and the server goes on."""

_KEPT = 50


@dataclass(frozen=True, slots=True)
class Decision:
    """Limits that were changed.

    Attributes:
        at_ms: session time.
        before: the old ones.
        after: the new ones.
        reason: why, in the tuner's words.
    """

    at_ms: float
    before: Limits
    after: Limits
    reason: str


class Decisions:
    """Which limits are in force, and how windows change them.

    Its caller holds a lock around every method but `offer`, which takes it: a thread that thinks calls it.

    Args:
        tuner: decides.
        recorder: counts the windows.
        lock: the caller's.
        background: whether the tuner is never waited for; else it is, up to `longest_tell_s`.
        longest_tell_s: seconds.
        engine: measures the windows instead of the recorder, if it is there.

    Attributes:
        tuner: the tuner, contained.
        limits: in force.
        advice: what they come from.
        log: the last changes, oldest first.
        changes: how often limits changed.
        windows: how many windows were closed.
        untold: windows that ended while the tuner was still thinking.
        late: tells that took longer than `longest_tell_s` and were not waited for.
        latest: the last window, None before the first.
    """

    def __init__(
        self,
        tuner: Tuner,
        recorder: WindowRecorder,
        lock: threading.RLock,
        *,
        background: bool = False,
        longest_tell_s: float = LONGEST_TELL_S,
        engine: MeasuringEngine | None = None,
    ) -> None:
        self.tuner = ContainedTuner(tuner, FALLBACK)
        self.advice = self.tuner.advice
        self.limits = self.advice.limits
        self.log: deque[Decision] = deque(maxlen=_KEPT)
        self.changes = self.windows = self.untold = self.late = 0
        self.latest: WindowMetrics | None = None
        self._recorder = recorder
        self._lock = lock
        self._engine = engine
        self._pending: Advice | None = None
        self._background, self._overdue = background, False
        self._longest_tell_s = longest_tell_s
        self._worker: Worker | None = None
        recorder.keeps_details = self.tuner.needs_details

    def boundary(self, now_ms: float, window_ms: float) -> WindowMetrics | None:
        """No step is running: pending limits come into force, and a window whose time is up is closed and told.

        Args:
            now_ms: the present.
            window_ms: length of a window.

        Returns:
            The window that was closed, None for none.
        """
        if self._overdue and self._worker is not None and not self._worker.busy:
            self._overdue, self._pending = False, self.tuner.advice
        if self._pending is not None:
            self._adopt(now_ms, self._pending)
        if now_ms - self._recorder.now.start_ms < window_ms:
            return None
        window = self._close(now_ms)
        self.windows += 1
        self.latest = window
        if self.tuner.quick and not self._background and (self._worker is None or not self._worker.busy):
            self._adopt(now_ms, self.tuner.decide(window, self._details(now_ms)))
            return window
        if self._worker is None:
            self._worker = Worker("batchpilot-tuner")
            # A session that is dropped without being closed leaves no thread.
            weakref.finalize(self, self._worker.close)
        if self._worker.busy:
            self.untold += 1
            return window
        self._worker.take(self._thought(window, now_ms))
        if self._background:
            return window
        if self._worker.wait(self._longest_tell_s):
            self._adopt(now_ms, self.tuner.advice)
        else:
            self._overdue = True
            self.late += 1
        return window

    def switch(self, tuner: Tuner) -> Tuner:
        """Another tuner decides from the next boundary on.

        Args:
            tuner: the new one.

        Returns:
            The old one.
        """
        old, self.tuner = self.tuner, ContainedTuner(tuner, self.limits)
        self._recorder.keeps_details = self.tuner.needs_details
        self._pending = self.tuner.advice
        return old.tuner

    def offer(self, tuner: ContainedTuner) -> None:
        """A tuner's present advice waits for the next boundary, unless the tuner has been replaced meanwhile.

        Args:
            tuner: whose advice.
        """
        with self._lock:
            if tuner is self.tuner:
                self._pending = tuner.advice

    def settle(self, timeout_s: float) -> bool:
        """Wait until a tuner in the background has decided.

        Args:
            timeout_s: at most so long.

        Returns:
            Whether it has.
        """
        return self._worker is None or self._worker.wait(timeout_s)

    def close(self) -> None:
        """Let the background thread end."""
        if self._worker is not None:
            self._worker.close()

    def _close(self, now_ms: float) -> WindowMetrics:
        counted = self._recorder.close(now_ms, self.limits, self.advice.estimate)
        return counted if self._engine is None else self._engine.close_window()

    def _details(self, now_ms: float) -> WindowDetails | None:
        if not self._recorder.keeps_details:
            return None
        details = self._recorder.take_details(now_ms)
        if self._engine is None:
            return details
        running, waiting = self._engine.in_flight()
        return replace(details, running=running, waiting=waiting)

    def _thought(self, window: WindowMetrics, now_ms: float) -> Callable[[], None]:
        tuner, details = self.tuner, self._details(now_ms)

        def think() -> None:
            tuner.decide(window, details)
            if self._background:
                self.offer(tuner)

        return think

    def _adopt(self, now_ms: float, advice: Advice) -> None:
        self._pending = None
        self.advice = advice
        if advice.limits is self.limits or advice.limits == self.limits:
            return
        self.log.append(Decision(now_ms, self.limits, advice.limits, advice.reason))
        self.changes += 1
        if now_ms > self._recorder.now.start_ms:
            # A window that had begun under the old limits would mix two settings; its details are kept for the next.
            self._close(now_ms)
        self.limits = advice.limits
