"""Runs batches: a request goes when a place is free beside everything interactive, and gives it back when one waits."""

from __future__ import annotations

import asyncio
import json
import logging
import time
from collections.abc import Callable, Iterator
from typing import Any

from batchpilot.serving.server.batches.batch import Answers, Batch, BatchStore
from batchpilot.serving.server.batches.files import FileStore, NoRoomError
from batchpilot.serving.server.batches.lines import Line, check_lines, read_lines
from batchpilot.serving.server.batches.places import Places
from batchpilot.serving.server.errors import error_body
from batchpilot.serving.server.incoming import Application, Message

log = logging.getLogger("batchpilot.server")

LOOK_S = 0.05
"""How often is looked for free places and for those who wait."""

RETRY_S = 1.0
"""After a refusal, which says nothing of the request itself."""

_BUSY = (499, 503, 504)
"""Statuses of answers that will be another's later."""


class BatchRunner:
    """Runs the batches of a store one after another, the oldest first.

    Args:
        files: where requests are and answers go.
        batches: what is to be run; those that a server that ended left are gone on with.
        app: answers requests.
        places: how many may run.
        clock: s since 1970.
    """

    def __init__(
        self,
        files: FileStore,
        batches: BatchStore,
        app: Application,
        places: Places,
        clock: Callable[[], float] = time.time,
    ) -> None:
        self._files, self._batches, self._app, self._places, self._clock = files, batches, app, places, clock
        self._running: dict[asyncio.Task[None], Line] = {}
        self._again: list[Line] = []

    async def run(self) -> None:
        """For ever; cancelled, it leaves every batch where it stands."""
        try:
            while True:
                batch = next((batch for batch in self._batches.all() if batch.open), None)
                if batch is None:
                    await asyncio.sleep(LOOK_S)
                    continue
                try:
                    await self._run(batch)
                except OSError:  # a full disk, perhaps for now
                    log.exception("the batch %s waits", batch.id)
                    await self._stop_all()
                    await asyncio.sleep(RETRY_S)
        finally:
            await self._stop_all()

    async def _run(self, batch: Batch) -> None:
        if batch.status == "validating" and not await self._validate(batch):
            return
        answers, failures = self._batches.answers(batch)
        batch.completed, batch.failed = len(answers.custom_ids), len(failures.custom_ids)
        done = answers.custom_ids | failures.custom_ids
        lines = (line for line in read_lines(self._files.path(batch.input_file_id)) if line.custom_id not in done)
        self._again = []
        while batch.status == "in_progress" and self._clock() < batch.expires_at:
            self._give_back()
            more = self._go(batch, lines, answers, failures)
            if not (more or self._running or self._again):
                break
            await asyncio.sleep(LOOK_S)
        if batch.status == "in_progress" and self._clock() >= batch.expires_at:
            await self._stop_all()
            self._expire(batch, answers, failures)
            await self._finish(batch, answers, failures, "expired")
        elif batch.status == "cancelling":
            await self._stop_all()
            await self._finish(batch, answers, failures, "cancelled")
        else:
            await self._finish(batch, answers, failures, "completed")

    async def _validate(self, batch: Batch) -> bool:
        file = self._files.find(batch.input_file_id)
        if file is None:
            batch.errors = [{"code": "file_not_found", "message": "its file was deleted", "line": None, "param": None}]
        else:
            path = self._files.path(file.id)
            batch.total, problems = await asyncio.to_thread(check_lines, path, batch.endpoint)
            batch.errors = [problem.to_dict() for problem in problems]
        if batch.status != "validating":
            return True  # cancelled meanwhile
        self._become(batch, "failed" if batch.errors else "in_progress")
        return not batch.errors

    def _go(self, batch: Batch, lines: Iterator[Line], answers: Answers, failures: Answers) -> bool:
        """Begin as many requests as there are places for; whether there may be more."""
        for _ in range(self._places.free(len(self._running))):
            line = self._again.pop() if self._again else next(lines, None)
            if line is None:
                return False
            task = asyncio.ensure_future(self._answer(batch, line, answers, failures))
            self._running[task] = line
            task.add_done_callback(self._running.pop)
        return True

    def _give_back(self) -> None:
        """End the latest requests while interactive ones wait; they begin anew later."""
        for task in list(self._running)[::-1][: self._places.wanted(len(self._running))]:
            self._again.append(self._running[task])
            task.cancel()

    async def _stop_all(self) -> None:
        tasks = list(self._running)
        for task in tasks:
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)

    async def _answer(self, batch: Batch, line: Line, answers: Answers, failures: Answers) -> None:
        try:
            status, body = await self._ask(batch.endpoint, line.body)
        except Exception as error:  # a defect of this one must not keep the batch from ending
            log.exception("a request of the batch %s failed", batch.id)
            status, body = 500, error_body(500, f"the server has a defect: {type(error).__name__}")
        if status in _BUSY:
            await asyncio.sleep(RETRY_S)
            self._again.append(line)
            return
        response = {"status_code": status, "request_id": body.get("id", ""), "body": body}
        try:
            (answers if status == 200 else failures).add(line.custom_id, response)
        except OSError:
            log.exception("an answer of the batch %s cannot be written", batch.id)
            await asyncio.sleep(RETRY_S)
            self._again.append(line)
            return
        batch.completed, batch.failed = len(answers.custom_ids), len(failures.custom_ids)

    async def _ask(self, path: str, body: bytes) -> tuple[int, dict[str, Any]]:
        """By the application's own routes."""
        status, parts, asked = 500, [], [{"type": "http.request", "body": body, "more_body": False}]
        headers = [(b"host", b"127.0.0.1"), (b"content-type", b"application/json")]
        scope: Message = {
            **{"type": "http", "http_version": "1.1", "method": "POST", "scheme": "http", "root_path": ""},
            **{"path": path, "raw_path": path.encode(), "query_string": b"", "client": None, "server": None},
            "headers": [*headers, (b"content-length", str(len(body)).encode())],
        }

        async def receive() -> Message:
            if not asked:
                await asyncio.Event().wait()
            return asked.pop()

        async def send(message: Message) -> None:
            nonlocal status
            if message["type"] == "http.response.start":
                status = message["status"]
            parts.append(message.get("body", b""))

        await self._app(scope, receive, send)
        told: dict[str, Any] = json.loads(b"".join(parts))
        return status, told

    def _expire(self, batch: Batch, answers: Answers, failures: Answers) -> None:
        done = answers.custom_ids | failures.custom_ids
        error = {"code": "batch_expired", "message": "this request could not be answered in the completion window"}
        for line in read_lines(self._files.path(batch.input_file_id)):
            if line.custom_id not in done:
                failures.add(line.custom_id, None, error)

    async def _finish(self, batch: Batch, answers: Answers, failures: Answers, status: str) -> None:
        """Make files of what there is; what a server that ended in between has made already is made once."""
        batch.completed, batch.failed = len(answers.custom_ids), len(failures.custom_ids)
        if status == "completed":
            self._become(batch, "finalizing")
        try:
            for name, kept in (("output", answers), ("error", failures)):
                if getattr(batch, f"{name}_file_id") is None and kept.custom_ids:
                    filename = f"{batch.id}_{name}.jsonl"
                    file = await asyncio.to_thread(self._files.add, kept.take(), filename, "batch_output")
                    setattr(batch, f"{name}_file_id", file.id)
                    self._batches.keep(batch)
        except NoRoomError as full:
            batch.errors = [{"code": "no_room", "message": str(full), "line": None, "param": None}]
            status = "failed"
        self._become(batch, status)
        answers.forget()
        failures.forget()

    def _become(self, batch: Batch, status: str) -> None:
        batch.status = status
        batch.times[f"{status}_at"] = int(self._clock())
        self._batches.keep(batch)
