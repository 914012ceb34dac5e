"""A thread that does one thing at a time, so that slow decisions do not hold a server up."""

from __future__ import annotations

import threading
from collections.abc import Callable


class Worker:
    """Runs jobs one after another in a thread of its own; while it is busy it takes no other.

    Args:
        name: of the thread.
    """

    def __init__(self, name: str) -> None:
        self._wake = threading.Condition()
        self._job: Callable[[], None] | None = None
        self._closed = False
        self._thread = threading.Thread(target=self._run, name=name, daemon=True)
        self._thread.start()

    @property
    def busy(self) -> bool:
        """Whether it can take no job: one is waiting or running, or it is closed."""
        return self._closed or self._job is not None

    def take(self, job: Callable[[], None]) -> None:
        """Run a job as soon as the thread gets to it.

        Args:
            job: raises nothing.

        Raises:
            RuntimeError: it is busy or closed.
        """
        with self._wake:
            if self._closed or self._job is not None:
                raise RuntimeError("the worker is busy or closed; ask `busy` first")
            self._job = job
            self._wake.notify_all()

    def wait(self, timeout_s: float) -> bool:
        """Wait until it is not busy.

        Args:
            timeout_s: at most so long.

        Returns:
            Whether it is.
        """
        with self._wake:
            return self._wake.wait_for(lambda: self._job is None, timeout_s)

    def close(self) -> None:
        """Let the thread end after its present job."""
        with self._wake:
            self._closed = True
            self._wake.notify_all()

    def _run(self) -> None:
        while True:
            with self._wake:
                self._wake.wait_for(lambda: self._closed or self._job is not None)
                job = self._job
            if job is None:
                return
            job()
            # What the job held is let go of while this waits for the next.
            del job
            with self._wake:
                self._job = None
                self._wake.notify_all()
