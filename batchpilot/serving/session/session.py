"""A tuner at work in anyone's server: raw events in, limits out. Times in ms, the clock in seconds.

session = TunerSession(make_tuner("guarded-adaptive"), window_ms=1000.0)
session.on_arrival(request, prompt_tokens=300)     # from any thread or coroutine
session.limits().batch_size                        # a field read
session.on_step(batch_size, tokens, context_tokens, duration_ms)
"""

from __future__ import annotations

import math
import threading
import time
from collections.abc import Callable, Hashable, Iterable
from types import TracebackType
from typing import Any, Self, TypeVar

from batchpilot.core import Limits, Tuner, WindowMetrics
from batchpilot.core.names import unknown_name
from batchpilot.serving.session.decisions import LONGEST_TELL_S, Decision, Decisions
from batchpilot.serving.session.engine import EngineFacts, MeasuringEngine
from batchpilot.serving.session.prediction import TTFTPredictor
from batchpilot.serving.session.window import WindowRecorder

Answer = TypeVar("Answer")

REJECTIONS = ("refused_on_arrival", "refused_by_guard")
"""Why a server refuses a request."""


class TunerSession:
    """Turns a server's raw events into windows, tells them to a tuner and holds the limits it asks for.

    Safe from any number of threads and from coroutines: an event takes microseconds under a lock, `limits()` none.
    A window closes at the end of a step, or at `tick()` while nothing runs, so that none mixes two settings; a server
    that tells no steps (a gateway) has it closed by whichever event comes after its time is up. Call `tick()` now and
    then while idle, or windows wait for the next event.

    A request goes arrival, [start], [prefill in parts], first token, tokens, and one end: finish, reject, failure or
    cancel. Brackets may be left out: a first token implies a start, and a prompt that was not told in parts counts as
    computed with it. A step's requests are told before `on_step` tells the step. Events about requests that are not
    known, or have ended, count as `odd_events` and for nothing else.

    A tuner that raises does no harm: it is counted, shown in `status()`, and the last good limits stay.

    Args:
        tuner: decides.
        window_ms: length of a window, > 0.
        clock: seconds, only ever forward; session time is this clock's.
        facts: what is known of the engine; what is not known is missing from the metrics.
        engine: measures windows itself; events then serve predictions and details. None counts events.
        background: whether the tuner thinks in a thread of its own, for one that takes milliseconds. While it thinks
            the present limits stay; windows that end meanwhile go untold, their details are told with the next.
        on_window: hears every window, in the thread that closed it.
        longest_tell_s: how long a tuner that does not think in the background is waited for; then the last good limits
            stand until it is done.

    Raises:
        ValueError: window_ms is not above zero.
    """

    def __init__(
        self,
        tuner: Tuner,
        *,
        window_ms: float = 1000.0,
        clock: Callable[[], float] = time.monotonic,
        facts: EngineFacts | None = None,
        engine: MeasuringEngine | None = None,
        background: bool = False,
        on_window: Callable[[WindowMetrics], None] | None = None,
        longest_tell_s: float = LONGEST_TELL_S,
    ) -> None:
        if not (math.isfinite(window_ms) and window_ms > 0):
            raise ValueError(f"window_ms is {window_ms}; it must be above 0 ms")
        self._window_ms, self._clock = window_ms, clock
        self._on_window = on_window
        self._lock = threading.RLock()
        self._recorder = WindowRecorder(facts or EngineFacts(), self.now_ms)
        self._decisions = Decisions(
            tuner, self._recorder, self._lock, background=background, longest_tell_s=longest_tell_s, engine=engine
        )
        self._predictor = TTFTPredictor()
        self._tells_steps = False

    def limits(self) -> Limits:
        """The limits to run with: a field read."""
        return self._decisions.limits

    @property
    def now_ms(self) -> float:
        """Session time."""
        return 1000.0 * self._clock()

    @property
    def tuner(self) -> Tuner:
        """The tuner that decides; to change it or its settings use `command` and `switch`."""
        return self._decisions.tuner.tuner

    @property
    def estimate(self) -> tuple[float, ...] | None:
        """What the tuner believes a step costs, nine saturation parameters; None for no opinion."""
        return self._decisions.advice.estimate

    @property
    def latest(self) -> WindowMetrics | None:
        """The last window, None before the first."""
        return self._decisions.latest

    @property
    def decisions(self) -> list[Decision]:
        """The last changes of limits, oldest first."""
        with self._lock:
            return list(self._decisions.log)

    @property
    def waiting(self) -> int:
        """Requests that wait."""
        return len(self._recorder.requests.waiting)

    @property
    def queued_tokens(self) -> int:
        """Their prompt tokens."""
        return self._recorder.requests.queued_tokens

    @property
    def unanswered_tokens(self) -> int:
        """Prompt tokens of requests without a first token, whether they wait or run."""
        with self._lock:
            return self._recorder.requests.unanswered_tokens

    @property
    def running(self) -> int:
        """Requests that run."""
        return len(self._recorder.requests.running)

    def on_arrival(
        self,
        request: Hashable,
        prompt_tokens: int,
        *,
        ttft_target_ms: float = math.inf,
        tpot_target_ms: float = math.inf,
        waited_ms: float = 0.0,
        cached_tokens: int = 0,
    ) -> None:
        """A request arrives and waits.

        Args:
            request: an id of its own among those in flight.
            prompt_tokens: its prompt, >= 0.
            ttft_target_ms: its promise, infinity for none.
            tpot_target_ms: likewise.
            waited_ms: how long ago it came, >= 0, for a server that hears late.
            cached_tokens: what of its prompt is in the server's prefix cache now and need not be computed.
        """
        with self._lock:
            now_ms = self._event() - waited_ms
            self._recorder.arrive(now_ms, request, prompt_tokens, ttft_target_ms, tpot_target_ms, cached_tokens)

    def on_start(self, request: Hashable, *, cached_tokens: int | None = None) -> None:
        """A waiting request is let into the batch.

        Args:
            request: its id.
            cached_tokens: what the server found of its prompt in its prefix cache, of whole blocks; None for what was
                told on arrival.
        """
        with self._lock:
            self._event()
            self._recorder.start(request, cached_tokens)

    def on_prefill(self, request: Hashable, tokens: int) -> None:
        """A step computed part of a prompt, or recomputed what a preemption lost.

        Args:
            request: its id.
            tokens: how many.
        """
        with self._lock:
            self._event()
            self._recorder.prefill(request, tokens)

    def on_first_token(self, request: Hashable) -> None:
        """A request emits its first token.

        Args:
            request: its id.
        """
        self.on_tokens(request, 1)

    def on_tokens(self, request: Hashable, count: int = 1) -> None:
        """A request emits tokens, its first among them if it had none.

        Args:
            request: its id.
            count: how many, >= 1.
        """
        with self._lock:
            began = self._recorder.emit(self._event(), request, count)
            if began is not None:
                self._predictor.hear_first_token(began)

    def on_step_tokens(self, requests: Iterable[Hashable], count: int = 1) -> None:
        """Each of a step's requests emits tokens: as `on_tokens` for each, for a fraction of the cost.

        A request that emits with the same others as in the last step costs nothing, so tell all of a step at once.

        Args:
            requests: their ids.
            count: how many tokens each, >= 1.
        """
        with self._lock:
            for began in self._recorder.emit_together(self._event(), requests, count):
                self._predictor.hear_first_token(began)

    def on_preempt(self, request: Hashable) -> None:
        """A running request goes back into the queue, to be computed again.

        Args:
            request: its id.
        """
        with self._lock:
            self._event()
            self._recorder.preempt(request)

    def on_finish(self, request: Hashable, output_tokens: int | None = None, *, texts: int = 1) -> None:
        """A request has said everything.

        Args:
            request: its id.
            output_tokens: length of its output; tokens that were not told one by one count now. None for what was told.
            texts: how many texts it is, generated at once, so that the time per token is that of each.
        """
        with self._lock:
            now_ms = self._event()
            self._recorder.finish(now_ms, request, output_tokens, texts)
            self._place_free(now_ms)

    def on_reject(self, request: Hashable, reason: str = "refused_on_arrival") -> None:
        """A request that arrived is refused.

        Args:
            request: its id.
            reason: one of `REJECTIONS`.

        Raises:
            ValueError: no such reason.
        """
        if reason not in REJECTIONS:
            raise ValueError(unknown_name(reason, REJECTIONS, "rejection"))
        with self._lock:
            self._event()
            self._recorder.end(request, reason)

    def on_failure(self, request: Hashable | None = None) -> None:
        """A request ends by an error, or something failed that is no request of its own and no step told by `on_step`.

        Args:
            request: its id; None counts a failure, as out of memory in a batch, without an end.
        """
        with self._lock:
            now_ms = self._event()
            if request is None:
                self._recorder.now.failures += 1
            else:
                self._recorder.end(request, "failed_requests")
                self._place_free(now_ms)

    def on_cancel(self, request: Hashable) -> None:
        """A request's client is gone: it counts neither as served nor as missed.

        Args:
            request: its id.
        """
        with self._lock:
            now_ms = self._event()
            self._recorder.end(request, "cancelled_requests")
            self._place_free(now_ms)

    def on_step(
        self,
        batch_size: int,
        tokens: int,
        context_tokens: int,
        duration_ms: float,
        *,
        kv_used_fraction: float | None = None,
        failed: bool = False,
    ) -> None:
        """A step has ended and all its requests' events have been told.

        Args:
            batch_size: requests in it.
            tokens: tokens computed.
            context_tokens: tokens read by attention.
            duration_ms: step time.
            kv_used_fraction: KV blocks in use, 0-1; None takes it from the requests that run.
            failed: whether it failed (out of memory, engine error).
        """
        with self._lock:
            self._tells_steps = True
            now_ms = 1000.0 * self._clock()
            counts = self._recorder.step(
                now_ms, batch_size, tokens, context_tokens, duration_ms, kv_used_fraction, failed
            )
            if counts and not failed and tokens > 0:
                self._predictor.hear_step(tokens, duration_ms)
            self._boundary(now_ms)

    def tick(self) -> None:
        """Nothing happened, and no step is running: close the window if its time is up."""
        with self._lock:
            self._boundary(self.now_ms)

    def predicted_ttft_ms(self, prompt_tokens: int) -> float:
        """Predicted time to first token of a request that came now; NaN while too little is known.

        Args:
            prompt_tokens: its prompt.
        """
        with self._lock:
            estimate = self.estimate or self._recorder.facts.estimate
            return self._predictor.predict(prompt_tokens, self._recorder.requests, self.limits(), estimate)

    def command(self, action: Callable[[Tuner], Answer]) -> Answer:
        """Do something with the tuner between its windows; what it then asks for comes into force at the next step.

        Args:
            action: gets the tuner; what it raises is the caller's.

        Returns:
            What the action returned.
        """
        tuner = self._decisions.tuner
        answer = tuner.command(action)
        self._decisions.offer(tuner)
        self._between_events()
        return answer

    def switch(self, tuner: Tuner) -> Tuner:
        """Another tuner decides from now on.

        Args:
            tuner: the new one.

        Returns:
            The old one.
        """
        with self._lock:
            old = self._decisions.switch(tuner)
            self._between_events()
            return old

    def status(self) -> dict[str, Any]:
        """The tuner's status, and the session's own counts beside it."""
        decisions = self._decisions
        tuner = decisions.tuner
        own = tuner.status()
        with self._lock:
            return {
                **own,
                "tuner": getattr(tuner.tuner, "name", type(tuner.tuner).__name__),
                "limits": decisions.limits.to_dict(),
                "window_ms": self._window_ms,
                "windows": decisions.windows,
                "windows_untold": decisions.untold,
                "tells_late": decisions.late,
                "limit_changes": decisions.changes,
                "tuner_errors": tuner.errors,
                "tuner_last_error": tuner.last_error,
                "tell_ms": tuner.tell_ms,
                "odd_events": self._recorder.odd_events,
                "waiting": self.waiting,
                "running": self.running,
                "queued_tokens": self.queued_tokens,
            }

    def settle(self, timeout_s: float = 5.0) -> bool:
        """Wait until a tuner in the background has decided; its limits come into force at the next step or tick.

        Args:
            timeout_s: at most so long.

        Returns:
            Whether it has.
        """
        return self._decisions.settle(timeout_s)

    def close(self) -> None:
        """Let the background thread end."""
        self._decisions.close()

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()

    def _event(self) -> float:
        """The present, at the start of an event that is no step; without steps it may be a window's end."""
        if not self._tells_steps:
            self.tick()
        return 1000.0 * self._clock()

    def _between_events(self) -> None:
        if not self._tells_steps:
            self.tick()

    def _place_free(self, now_ms: float) -> None:
        self._predictor.hear_end(now_ms, full=bool(self._recorder.requests.waiting))

    def _boundary(self, now_ms: float) -> None:
        window = self._decisions.boundary(now_ms, self._window_ms)
        if window is not None and self._on_window is not None:
            self._on_window(window)
