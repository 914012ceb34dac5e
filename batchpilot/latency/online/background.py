"""Updates in a thread of their own, woken by observations."""

from __future__ import annotations

import threading
from types import TracebackType

from batchpilot.latency.online.adaptive import AdaptiveLatency


class BackgroundUpdates:
    """Calls `update` whenever enough has been recorded, from entering the context until leaving it.

        with BackgroundUpdates(adaptive):
            serve()

    Leaving waits for the update under way and looks once more at what came last. The thread waits on an event and reads
    no clock; as a daemon it never keeps a process alive.

    Args:
        adaptive: the model to update.
    """

    def __init__(self, adaptive: AdaptiveLatency) -> None:
        self._adaptive = adaptive
        self._due = threading.Event()
        self._stopping = False
        self._thread = threading.Thread(target=self._run, name="latency-updates", daemon=True)

    def __enter__(self) -> BackgroundUpdates:
        self._adaptive.wake(self._due)
        self._thread.start()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._adaptive.wake(None)
        self._stopping = True
        self._due.set()
        self._thread.join()

    def _run(self) -> None:
        while not self._stopping:
            self._due.wait()
            self._due.clear()
            self._adaptive.update()
        self._adaptive.update()
