"""The thread that owns the engine: takes requests in, runs steps, hands tokens out, and keeps the session informed."""

from __future__ import annotations

import asyncio
import logging
import math
import queue
import threading
import weakref
from collections import Counter
from collections.abc import Callable

import numpy as np
from numpy.typing import NDArray

from batchpilot.core.metrics import WindowMetrics
from batchpilot.engines.scheduler.details import believe, in_flight
from batchpilot.engines.torch.live import LiveEngine
from batchpilot.engines.torch.live_events import LiveStep
from batchpilot.serving.interpreter import share_sooner
from batchpilot.serving.output_lengths import OutputLengths
from batchpilot.serving.server.gauges import Gauges
from batchpilot.serving.server.generation import ENDED_WELL, Generation, Piece
from batchpilot.serving.server.metrics import ServerMetrics
from batchpilot.serving.session.session import REJECTIONS, TunerSession

log = logging.getLogger("batchpilot.server")

IDLE_S = 0.05
"""How long the thread sleeps at most while there is nothing to do; windows are closed that often too."""

Command = tuple[str, Generation]


class LiveMeasures:
    """A live engine's own windows, for a session.

    Args:
        engine: measures.
    """

    def __init__(self, engine: LiveEngine) -> None:
        self._engine = engine

    def close_window(self) -> WindowMetrics:
        """Measurements since the last call, and the start of a new window."""
        return self._engine.close_window()

    def in_flight(self) -> tuple[NDArray[np.void], NDArray[np.void]]:
        """Running and waiting requests."""
        s = self._engine.state
        c = np.asarray(s.clock)[0]
        running = s.requests[s.slots["running"][: int(c["n_running"])]]
        waiting = s.requests[s.lines["waiting"][: int(c["n_queue"])]]
        return in_flight(running), in_flight(waiting)


class EngineLoop:
    """Runs a live engine in a thread of its own. Every method but `start` and `stop` may be called from any thread.

    Args:
        engine: runs only here.
        session: hears what happens and says the limits; its clock is the engine's.
        metrics: counts.
        clock: seconds, the engine's.

    Attributes:
        failure: the error that ended the thread, None while it is well.
    """

    def __init__(
        self, engine: LiveEngine, session: TunerSession, metrics: ServerMetrics, clock: Callable[[], float]
    ) -> None:
        self.failure: str | None = None
        self._engine, self._session, self._metrics, self._clock = engine, session, metrics, clock
        self._inbox: queue.SimpleQueue[Command] = queue.SimpleQueue()
        self._generations: dict[int, Generation] = {}
        self._lengths = OutputLengths()
        self._open: set[Generation] = set()
        self._guard = threading.Lock()
        self._stopping = threading.Event()
        self._beat_s = clock()
        self._thread = threading.Thread(target=self._run, name="batchpilot-engine", daemon=True)
        self._event_loop: asyncio.AbstractEventLoop | None = None

    @property
    def longest(self) -> int:
        """Most tokens of a request, output included."""
        return self._engine.longest

    @property
    def open(self) -> int:
        """Requests whose last piece has not been said."""
        return len(self._open)

    @property
    def stalled_s(self) -> float:
        """How long ago the thread last came round, 0 while nothing is asked of it."""
        return self._clock() - self._beat_s if self._open else 0.0

    @property
    def gauges(self) -> Gauges:
        """What the engine holds now."""
        c = np.asarray(self._engine.state.clock)[0]
        used = (c["total_blocks"] - c["free_blocks"]) / c["total_blocks"]
        return Gauges(int(c["n_running"]), int(c["n_queue"]), int(c["queued_tokens"]), float(used))

    def start(self, event_loop: asyncio.AbstractEventLoop) -> None:
        """Begin.

        Args:
            event_loop: where clients are answered.
        """
        self._event_loop = event_loop
        share_sooner()
        self._thread.start()

    def stop(self, timeout_s: float = 10.0) -> bool:
        """Cancel what is open and end the thread after its present step.

        Args:
            timeout_s: how long to wait for that step.

        Returns:
            Whether it has ended.
        """
        self._stopping.set()
        for generation in self._all_open():
            self.cancel(generation)
        if self._thread.is_alive():
            self._thread.join(timeout_s)
        return not self._thread.is_alive()

    def submit(self, generation: Generation) -> None:
        """A request comes; all that follows comes as its pieces, exactly one of them with an end.

        Args:
            generation: of no earlier call; its lengths are those of the engine.
        """
        with self._guard:
            self._open.add(generation)
        self._inbox.put(("submit", generation))
        # Looked at after it was put among the open ones: either the thread sees it there, or this sees the thread end.
        if self.failure is not None or self._stopping.is_set():
            self._end(generation, "engine_error" if self.failure else "shutting_down")
        self._watch(generation)

    def _watch(self, generation: Generation) -> None:
        """Look again at a request that waits when the guard gives it up, whatever step runs then."""
        guard, event_loop = self._session.limits().ttft_guard, self._event_loop
        deadline_s = generation.order.arrived_s + (guard or math.inf) * generation.order.ttft_target_ms / 1000.0
        if math.isfinite(deadline_s) and event_loop is not None and not event_loop.is_closed():
            delay_s = max(deadline_s - self._clock(), 0.0)
            # By a weak reference: a request that is over is not kept for as long as it was promised.
            watched = weakref.ref(generation)
            event_loop.call_soon_threadsafe(lambda: event_loop.call_later(delay_s, self._give_up, watched))

    def _give_up(self, watched: weakref.ref[Generation]) -> None:
        """Tell the client of a request that still waits; the engine refuses it by the same rule when it looks next."""
        generation = watched()
        if generation is None or generation.ended:
            return
        order, guard = generation.order, self._session.limits().ttft_guard
        if guard is None or self._clock() < order.arrived_s + guard * order.ttft_target_ms / 1000.0:
            self._watch(generation)  # the guard has moved
        elif generation.number is None or self._engine.is_waiting(generation.number):
            generation.given_up = True
            self._end(generation, "refused_by_guard")

    def cancel(self, generation: Generation, *, satisfied: bool = False) -> None:
        """Nobody wants the rest of an answer: its KV blocks are freed before the next step.

        Args:
            generation: one that was submitted; one that has ended stays as it is.
            satisfied: whether its client has all it asked for, which is no cancellation to the metrics.
        """
        generation.satisfied = satisfied
        generation.cancelled = True
        self._inbox.put(("cancel", generation))

    def cancel_all(self) -> int:
        """Cancel whatever is open; returns how many."""
        open_now = self._all_open()
        for generation in open_now:
            self.cancel(generation)
        return len(open_now)

    def _all_open(self) -> list[Generation]:
        with self._guard:
            return list(self._open)

    def _run(self) -> None:
        try:
            wait_s, ended_s = 0.0, self._clock()
            while not self._stopping.is_set() or self._open:
                self._take_commands(wait_s)
                wait_s, ended_s = self._turn(self._clock() if wait_s > 0 else ended_s)
        except Exception as error:  # a defect: every client must hear of it
            log.exception("the engine thread has ended")
            self.failure = f"{type(error).__name__}: {error}"
            for generation in self._all_open():
                self._end(generation, "engine_error")
            self._generations.clear()

    def _turn(self, began_s: float) -> tuple[float, float]:
        """One step and all that follows from it.

        Args:
            began_s: when the step before it ended, or there was something to do again. The session is told the time
                since then, which is what clients wait for: the device's, and all that the host does around it.

        Returns:
            How long there is nothing to do, and when the step ended.
        """
        engine, session = self._engine, self._session
        engine.set_limits(session.limits())
        if session.estimate is not None:
            believe(engine, session.estimate)  # type: ignore[arg-type]
        step = engine.step()
        self._beat_s = ended_s = self._clock()
        self._publish(step)
        if step.batch_size:
            failed = step.failure is not None
            if failed:
                log.warning("a step of %d requests failed: %s", step.batch_size, step.failure)
            duration_ms = 1000.0 * (ended_s - began_s)
            self._metrics.step(duration_ms, failed=failed)
            session.on_step(step.batch_size, step.tokens, step.context_tokens, duration_ms, failed=failed)
            return 0.0, ended_s
        session.tick()
        return (min(step.wake_ms / 1000.0, IDLE_S) if not step.events else 0.0), ended_s

    def _take_commands(self, wait_s: float) -> None:
        """Everything in the inbox; waits for the first if there is nothing else to do."""
        try:
            command = self._inbox.get(timeout=wait_s) if wait_s > 0 else self._inbox.get_nowait()
            while True:
                self._obey(*command)
                command = self._inbox.get_nowait()
        except queue.Empty:
            return

    def _obey(self, action: str, generation: Generation) -> None:
        if action == "submit":
            self._admit(generation)
        elif generation.number is not None and self._engine.cancel(generation.number):
            return
        elif generation.number is None and not generation.ended:
            self._end(generation, "cancelled")

    def _admit(self, generation: Generation) -> None:
        order = generation.order
        if generation.cancelled or (generation.ended and not generation.given_up):
            return
        self._engine.set_limits(self._session.limits())
        waited_ms = 1000.0 * max(self._clock() - order.arrived_s, 0.0)
        try:
            number = self._engine.submit(
                order.prompt,
                order.max_tokens,
                ttft_target_ms=order.ttft_target_ms,
                tpot_target_ms=order.tpot_target_ms,
                user=order.user,
                priority=order.priority,
                sampling=order.sampling,
                waited_ms=waited_ms,
                estimated_output_tokens=self._lengths.expected(len(order.prompt), order.max_tokens),
                images=order.images,
            )
        except ValueError as error:
            self._end(generation, "invalid", str(error))
            return
        generation.number = number
        self._generations[number] = generation
        self._session.on_arrival(
            number,
            len(order.prompt),
            ttft_target_ms=order.ttft_target_ms,
            tpot_target_ms=order.tpot_target_ms,
            waited_ms=waited_ms,
            cached_tokens=self._engine.cached_tokens(number),
        )

    def _publish(self, step: LiveStep) -> None:
        now_s = self._clock()
        said: list[tuple[Generation, Piece]] = []
        spoke = Counter(number for number, token, _, _ in step.events if token is not None)
        for count in sorted(set(spoke.values())) or [1]:
            self._session.on_step_tokens([number for number, tokens in spoke.items() if tokens == count], count)
        for number, token, finished, logprobs in step.events:
            generation = self._generations[number]
            if generation.ended and finished is None:
                self.cancel(generation)  # given up just when its turn came
                continue
            if token is not None:
                if generation.first_s is None:
                    generation.first_s = now_s
                    self._metrics.first_token(generation)
                generation.tokens += 1
            if finished is not None:
                del self._generations[number]
                if finished in ENDED_WELL or generation.satisfied:
                    self._lengths.hear(len(generation.order.prompt), generation.tokens)
                self._tell_end(number, finished)
            if finished is None or self._ends(generation, finished):
                piece = self._piece(generation, token, finished)
                if logprobs is not None:  # plain, since it may go to another process
                    piece = piece._replace(logprobs=(logprobs.chosen, logprobs.likeliest))
                said.append((generation, piece))
        self._metrics.tokens(spoke.total())
        self._deliver(said)

    def _tell_end(self, number: int, finished: str) -> None:
        if finished in ENDED_WELL:
            self._session.on_finish(number)
        elif finished in REJECTIONS:
            self._session.on_reject(number, finished)
        elif finished == "cancelled":
            self._session.on_cancel(number)
        else:
            self._session.on_failure(number)

    def _ends(self, generation: Generation, finished: str) -> bool:
        """Note the end of a request; False if it has ended before."""
        with self._guard:
            if generation not in self._open:
                return False
            self._open.discard(generation)
        generation.ended = True
        self._metrics.end(generation, finished, self._clock())
        return True

    def _end(self, generation: Generation, finished: str, mistake: str | None = None) -> None:
        """End a request that the engine does not know, or knows no more."""
        if self._ends(generation, finished):
            self._deliver([(generation, self._piece(generation, None, finished, mistake))])

    def _piece(
        self, generation: Generation, token: int | None, finished: str | None, mistake: str | None = None
    ) -> Piece:
        if finished is None or finished in ENDED_WELL:
            return Piece(token, finished)
        return Piece(token, finished, mistake, self._session.predicted_ttft_ms(len(generation.order.prompt)))

    def _deliver(self, said: list[tuple[Generation, Piece]]) -> None:
        """Hand what was said to the coroutines, all of a step in one call."""
        if said and self._event_loop is not None and not self._event_loop.is_closed():
            self._event_loop.call_soon_threadsafe(_put, said)


def _put(said: list[tuple[Generation, Piece]]) -> None:
    for generation, piece in said:
        generation.pieces.put_nowait(piece)
