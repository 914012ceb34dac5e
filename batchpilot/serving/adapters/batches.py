"""What batching functions tell a session: calls arrive, some are gathered into a batch, the batch ends. Times in ms.

To a session a call is a request whose answer is one token, and a batch is a step; so tokens per second are calls per
second, TTFT is the time from call to answer, and TPOT does not exist.
"""

from __future__ import annotations

from collections.abc import Callable, Hashable, Sequence
from typing import Any

from batchpilot.configs.tuner import TunerConfig
from batchpilot.core import SLO, Limits
from batchpilot.serving.session.session import TunerSession
from batchpilot.tuners import make_tuner

SessionFactory = Callable[[], TunerSession]
"""Makes the session in the process that runs the batches, since sessions do not travel between processes."""


def batch_session(
    tuner: str = "hybrid",
    *,
    config: TunerConfig | None = None,
    base: Limits | None = None,
    slo: SLO | None = None,
    window_ms: float = 500.0,
    **options: Any,
) -> TunerSession:
    """A session for a batching function; `functools.partial(batch_session, "aimd", slo=...)` is a `SessionFactory`.

    Args:
        tuner: by name; hybrid kept the most promises of those that move nothing but a batch size (docs/adapters.md).
        config: the `dynamic_batch_tuner` section; its `max_batch_size` is the largest batch the function can bear.
        base: limits the tuner starts from, `max_wait_ms` among them; None for the tuner's own.
        slo: the promise to a caller, for tuners that steer by latency.
        window_ms: length of a measurement window; several batches should fit.
        **options: further arguments of that tuner, `path="policy.onnx"` for tuner "policy".

    Raises:
        ValueError: no such tuner, or a bound is violated.
        TypeError: the tuner has no such option.
    """
    return TunerSession(make_tuner(tuner, config, base=base, slo=slo, track="batch", **options), window_ms=window_ms)


class BatchReports:
    """Reports the life of calls and batches to a session.

    Not locked: one thread or event loop runs a batching function.

    Args:
        session: hears of them.
        slo: the promise to every call; only its `ttft_ms` applies.
    """

    def __init__(self, session: TunerSession, slo: SLO) -> None:
        self.session = session
        self._slo = slo
        self._in_flight: set[Hashable] = set()

    def limits(self) -> Limits:
        """The limits for the next batch."""
        return self.session.limits()

    def arrived(self, call: Hashable, size: int = 1, waited_ms: float = 0.0) -> None:
        """A call came.

        Args:
            call: an id of its own.
            size: its work in tokens, or 1.
            waited_ms: how long ago, >= 0; it counts as waiting.
        """
        if not self._in_flight:
            self.session.tick()
        self._in_flight.add(call)
        self.session.on_arrival(call, size, ttft_target_ms=self._slo.ttft_ms, waited_ms=waited_ms)

    def started(self, calls: Sequence[Hashable]) -> None:
        """Calls were gathered into a batch.

        Args:
            calls: their ids.
        """
        for call in calls:
            self.session.on_start(call)

    def answered(self, call: Hashable) -> None:
        """A call got its answer.

        Args:
            call: its id; nothing happens if it has ended before.
        """
        if self._ends(call):
            self.session.on_finish(call, output_tokens=1)

    def failed(self, call: Hashable) -> None:
        """A call got an error.

        Args:
            call: its id; nothing happens if it has ended before.
        """
        if self._ends(call):
            self.session.on_failure(call)

    def cancelled(self, call: Hashable) -> None:
        """A caller is gone.

        Args:
            call: its id; nothing happens if it has ended before.
        """
        if self._ends(call):
            self.session.on_cancel(call)

    def ended(self, calls: int, size: int, duration_ms: float, *, failed: bool = False) -> None:
        """A batch ended, all its calls having been reported.

        Args:
            calls: how many it had.
            size: their work together.
            duration_ms: how long it took.
            failed: whether it raised.
        """
        self.session.on_step(calls, size, 0, duration_ms, failed=failed)

    def _ends(self, call: Hashable) -> bool:
        known = call in self._in_flight
        self._in_flight.discard(call)
        return known
