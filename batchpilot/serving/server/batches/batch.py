"""One batch: where it stands, kept on disk at each change, and the answers that it has so far."""

from __future__ import annotations

import json
import os
from collections.abc import Mapping
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

from batchpilot.core.files import json_text, write_json

OPEN = ("validating", "in_progress", "finalizing", "cancelling")
"""Statuses of a batch that goes on."""


@dataclass(slots=True)
class Batch:
    """What is known of a batch, under OpenAI's names.

    Attributes:
        id: of it.
        endpoint: of its requests.
        input_file_id: the file that has them.
        completion_window: as asked for.
        status: one of `OPEN`, or failed, completed, expired, cancelled.
        created_at: s since 1970, like the other times, which are None before.
        expires_at: when what has no answer then gets none.
        metadata: the client's.
        errors: what is wrong with the file.
        total: its requests.
        completed: that were answered with a 200.
        failed: that were answered otherwise.
        times: of its other statuses, by OpenAI's names: `in_progress_at` and so on.
        output_file_id: of the answers, once it has ended.
        error_file_id: of the others.
    """

    id: str
    endpoint: str
    input_file_id: str
    completion_window: str
    created_at: int
    expires_at: int
    metadata: Mapping[str, str] | None = None
    status: str = "validating"
    errors: list[dict[str, Any]] = field(default_factory=list)
    total: int = 0
    completed: int = 0
    failed: int = 0
    times: dict[str, int] = field(default_factory=dict)
    output_file_id: str | None = None
    error_file_id: str | None = None

    @property
    def open(self) -> bool:
        """Whether it goes on."""
        return self.status in OPEN

    def to_dict(self) -> dict[str, Any]:
        """As OpenAI's API shapes it."""
        names = ("in_progress", "finalizing", "completed", "failed", "expired", "cancelling", "cancelled")
        return {
            "id": self.id,
            "object": "batch",
            "endpoint": self.endpoint,
            "errors": {"object": "list", "data": self.errors} if self.errors else None,
            "input_file_id": self.input_file_id,
            "completion_window": self.completion_window,
            "status": self.status,
            "output_file_id": self.output_file_id,
            "error_file_id": self.error_file_id,
            "created_at": self.created_at,
            "expires_at": self.expires_at,
            **{f"{name}_at": self.times.get(f"{name}_at") for name in names},
            "request_counts": {"total": self.total, "completed": self.completed, "failed": self.failed},
            "metadata": self.metadata,
        }


class Answers:
    """The answers of a batch so far: a line each, written as they come. Half a line of a killed server is cut off.

    Args:
        path: the file.

    Attributes:
        custom_ids: of the requests that have an answer there.
    """

    def __init__(self, path: Path) -> None:
        self._path = path
        self.custom_ids: set[str] = set()
        if path.exists():
            content = path.read_bytes()
            whole = content[: content.rfind(b"\n") + 1]
            if whole != content:
                os.truncate(path, len(whole))
            self.custom_ids = {json.loads(line)["custom_id"] for line in whole.splitlines()}

    def add(self, custom_id: str, response: Mapping[str, Any] | None, error: Mapping[str, str] | None = None) -> None:
        """An answer has come.

        Args:
            custom_id: of its request.
            response: status and body, None where there is none.
            error: why there is none.
        """
        told = {"id": f"batch_req_{custom_id}", "custom_id": custom_id, "response": response, "error": error}
        with self._path.open("ab") as file:
            file.write(json_text(told).encode() + b"\n")
        self.custom_ids.add(custom_id)

    def take(self) -> bytes:
        """All of them."""
        return self._path.read_bytes() if self._path.exists() else b""

    def forget(self) -> None:
        """They are kept elsewhere now."""
        self._path.unlink(missing_ok=True)


class BatchStore:
    """The batches of one folder.

    Args:
        folder: for these alone; made where it is missing.

    Raises:
        OSError: the folder cannot be made or read.
    """

    def __init__(self, folder: Path) -> None:
        self._folder = folder
        folder.mkdir(parents=True, exist_ok=True)
        self._batches: dict[str, Batch] = {}
        for path in sorted(folder.glob("batch_*.json")):
            try:
                batch = Batch(**json.loads(path.read_text()))
            except (ValueError, TypeError):
                continue
            self._batches[batch.id] = batch

    def keep(self, batch: Batch) -> None:
        """Write where a batch stands.

        Args:
            batch: new or changed.

        Raises:
            OSError: it cannot be written.
        """
        write_json(self._folder / f"{batch.id}.json", asdict(batch))
        self._batches[batch.id] = batch

    def find(self, batch_id: str) -> Batch | None:
        """A batch, None where there is none.

        Args:
            batch_id: any text.
        """
        return self._batches.get(batch_id)

    def all(self) -> list[Batch]:
        """Every batch, the oldest first."""
        return sorted(self._batches.values(), key=lambda batch: (batch.created_at, batch.id))

    def answers(self, batch: Batch) -> tuple[Answers, Answers]:
        """Its answers so far, and its failures.

        Args:
            batch: of this store.
        """
        return Answers(self._folder / f"{batch.id}.output"), Answers(self._folder / f"{batch.id}.errors")
