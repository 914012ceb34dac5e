"""Whether an upstream is well, asked every few seconds: `/health`, or `/v1/models` where it has none."""

from __future__ import annotations

import asyncio
from collections.abc import Callable

from batchpilot.serving.gateway.connection import UpstreamError
from batchpilot.serving.gateway.upstream import Outgoing, Upstream

PATHS = (b"/health", b"/v1/models")

LONGEST_S = 5.0
"""A check that takes longer has failed, whatever comes then."""


class Health:
    """Checks one upstream.

    Args:
        upstream: which.
        interval_s: between checks, and the longest that one may take, up to `LONGEST_S`.
        most_failures: in a row, that take it out.
        on_change: hears when it falls ill (True) or is well again (False).

    Attributes:
        suspected: whether it is taken out.
        why: what the last failed check said.
    """

    def __init__(
        self, upstream: Upstream, interval_s: float, most_failures: int, on_change: Callable[[bool], None]
    ) -> None:
        self.suspected = False
        self.why = ""
        self._upstream, self._interval_s, self._most = upstream, interval_s, most_failures
        self._on_change = on_change
        self._failures = 0
        self._path = 0

    async def watch(self) -> None:
        """Check for ever; the first check at once."""
        while True:
            await self.check()
            await asyncio.sleep(self._interval_s)

    async def check(self) -> None:
        """Ask once."""
        try:
            async with asyncio.timeout(min(self._interval_s, LONGEST_S)):
                status = await self._ask()
        except TimeoutError:
            self.hear_failure("no answer to a health check")
        except UpstreamError as failure:
            self.hear_failure(failure.reason)
        else:
            if status >= 500:
                self.hear_failure(f"{PATHS[self._path].decode()} answers {status}")
            else:
                self._failures = 0
                if self.suspected:
                    self.suspected = False
                    self._on_change(False)

    def hear_failure(self, why: str) -> None:
        """A check failed, or a request found nobody there, which counts like one.

        Args:
            why: for people.
        """
        self.why = why
        self._failures += 1
        if self._failures >= self._most and not self.suspected and self._interval_s:
            self.suspected = True
            self._on_change(True)

    async def _ask(self) -> int:
        status = await self._status()
        if status in (404, 405, 501) and self._path + 1 < len(PATHS):
            self._path += 1
            status = await self._status()
        return status

    async def _status(self) -> int:
        answer = await self._upstream.send(Outgoing("GET", PATHS[self._path], []))
        try:
            while await answer.piece():
                pass
            return answer.status
        finally:
            answer.release()
