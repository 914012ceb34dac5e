"""LitServe: a loop that sets `max_batch_size` and `batch_timeout` of its API before every batch. Times in ms.

    api = Model(max_batch_size=8, batch_timeout=0.005, loop=TunedLoop(partial(batch_session, "hybrid")))
    LitServer(api).run(host="127.0.0.1")

Each worker has a session, and so a tuner, of its own.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Hashable
from typing import Any

from batchpilot.core import SLO
from batchpilot.core.extras import needing
from batchpilot.serving.adapters.batches import BatchReports, SessionFactory
from batchpilot.serving.adapters.versions import check_version

with needing("the LitServe adapter", "litserve"):
    import litserve
    from litserve.loops.simple_loops import BatchedLoop
    from litserve.utils import LitAPIStatus

check_version("litserve", litserve.__version__)


class TunedLoop(BatchedLoop):  # type: ignore[misc] # litserve carries no types
    """LitServe's own batched loop with a tuner beside it.

    A batch lasts from its gathering to the next one's, so decoding, predicting and encoding count. Requests that
    LitServe itself gives up on (its `timeout`) count as failed. For APIs that neither stream nor are asynchronous.

    Args:
        make_session: makes the worker's session; it is pickled with the loop, so a function of a module or a partial.
        slo: the promise to a caller, its `ttft_ms` the time from request to answer; None for none.
    """

    def __init__(self, make_session: SessionFactory, *, slo: SLO | None = None) -> None:
        super().__init__()
        self._make_session = make_session
        self._slo = slo or SLO(ttft_ms=float("inf"), tpot_ms=float("inf"), name="none")
        self._reports: BatchReports | None = None
        self._batch: list[Hashable] = []
        self._began = 0.0
        self._batch_failed = False

    @property
    def reports(self) -> BatchReports:
        """The worker's reports."""
        if self._reports is None:
            self._reports = BatchReports(self._make_session(), self._slo)
        return self._reports

    def get_batch_requests(self, lit_api: Any, request_queue: Any, transport: Any) -> tuple[list[Any], list[Any]]:
        """End the last batch, set the API to the tuner's limits and gather the next batch.

        Args:
            lit_api: the API being served.
            request_queue: where its requests come from.
            transport: where its responses go.

        Returns:
            The batch as (response queue id, uid, request) and the timed-out requests as (response queue id, uid).
        """
        self._end_batch()
        limits = self.reports.limits()
        lit_api.max_batch_size = limits.batch_size
        if limits.max_wait_ms is not None:
            lit_api.batch_timeout = limits.max_wait_ms / 1000.0
        heard = _HeardQueue(request_queue, self._arrived)
        batch, timed_out = super().get_batch_requests(lit_api, heard, transport)
        if batch and len(batch) < limits.batch_size:
            more, more_timed_out = self._get_those_that_wait(lit_api, heard, transport, limits.batch_size - len(batch))
            batch, timed_out = batch + more, timed_out + more_timed_out
        self._batch = [uid for _, uid, _ in batch]
        self._began = time.perf_counter()
        self.reports.started(self._batch)
        for _, uid in timed_out:
            self.reports.failed(uid)
        return batch, timed_out

    def put_response(
        self, transport: Any, response_queue_id: int, uid: str, response_data: Any, status: Any, response_type: Any
    ) -> None:
        """Send a response, and tell how its request ended.

        Args:
            transport: where it goes.
            response_queue_id: whose it is.
            uid: which request.
            response_data: what it says.
            status: started, done or failed.
            response_type: streaming or regular.
        """
        super().put_response(transport, response_queue_id, uid, response_data, status, response_type)
        if status == LitAPIStatus.OK:
            self.reports.answered(uid)
        elif status == LitAPIStatus.ERROR:
            self._batch_failed = self._batch_failed or uid in self._batch
            self.reports.failed(uid)

    def _get_those_that_wait(self, lit_api: Any, queue: Any, transport: Any, most: int) -> tuple[list[Any], list[Any]]:
        """Fill a batch from the queue: LitServe stops at its timeout, however many wait."""
        settings = lit_api.max_batch_size, lit_api.batch_timeout
        lit_api.max_batch_size, lit_api.batch_timeout = most, 0.0
        try:
            batch, timed_out = super().get_batch_requests(lit_api, queue, transport)
        finally:
            lit_api.max_batch_size, lit_api.batch_timeout = settings
        return batch, timed_out

    def _arrived(self, uid: Hashable, put_at: float) -> None:
        self.reports.arrived(uid, waited_ms=max(1000.0 * (time.monotonic() - put_at), 0.0))

    def _end_batch(self) -> None:
        if self._batch:
            duration_ms = 1000.0 * (time.perf_counter() - self._began)
            self.reports.ended(len(self._batch), len(self._batch), duration_ms, failed=self._batch_failed)
        else:
            self.reports.session.tick()
        self._batch, self._batch_failed = [], False


class _HeardQueue:
    """A request queue whose takings are heard of: the loop forgets when a request was put into it."""

    def __init__(self, queue: Any, hear: Callable[[Hashable, float], None]) -> None:
        self._queue, self._hear = queue, hear

    def get(self, *arguments: Any, **options: Any) -> Any:
        return self._heard(self._queue.get(*arguments, **options))

    def get_nowait(self) -> Any:
        return self._heard(self._queue.get_nowait())

    def _heard(self, taken: Any) -> Any:
        _, uid, put_at, _ = taken
        if uid is not None:  # as it is in the message that stops a loop
            self._hear(uid, put_at)
        return taken
