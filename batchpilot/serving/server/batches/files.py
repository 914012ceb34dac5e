"""Files of the Batch API: bounded, kept in one folder, there whole or not at all."""

from __future__ import annotations

import json
import time
import uuid
from collections.abc import Callable
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from batchpilot.core.files import write_atomic, write_json

FILES_PATH = "/v1/files"

MOST_FILE_BYTES = 64 * 2**20
"""Of one file."""

MOST_FILES = 1000
MOST_BYTES = 4 * 2**30
"""Of all files together."""


class NoRoomError(Exception):
    """The folder may hold no more."""


@dataclass(frozen=True, slots=True)
class StoredFile:
    """What is known of a file.

    Attributes:
        id: of it.
        bytes: its size.
        created_at: s since 1970.
        filename: as it was sent.
        purpose: `batch`, or `batch_output` of answers.
    """

    id: str
    bytes: int
    created_at: int
    filename: str
    purpose: str

    def to_dict(self) -> dict[str, Any]:
        """As OpenAI's API shapes it."""
        return {"object": "file", "status": "processed", **asdict(self)}


class FileStore:
    """The files of one folder. Content is written before what tells of it, so no half of a file is ever listed.

    Args:
        folder: for these files alone; made where it is missing.
        clock: s since 1970.

    Raises:
        OSError: the folder cannot be made or read.
    """

    def __init__(self, folder: Path, clock: Callable[[], float] = time.time) -> None:
        self._folder, self._clock = folder, clock
        folder.mkdir(parents=True, exist_ok=True)
        self._files: dict[str, StoredFile] = {}
        for path in sorted(folder.glob("file-*.json")):
            try:
                told = StoredFile(**json.loads(path.read_text()))
            except (ValueError, TypeError):
                continue
            if told.id == path.stem and self.path(told.id).is_file():
                self._files[told.id] = told

    def add(self, content: bytes, filename: str, purpose: str) -> StoredFile:
        """Keep a file.

        Args:
            content: of it.
            filename: as it was sent.
            purpose: see `StoredFile`.

        Raises:
            NoRoomError: there are too many, or too large ones.
            OSError: it cannot be written.
        """
        held = sum(file.bytes for file in self._files.values())
        if len(self._files) >= MOST_FILES or held + len(content) > MOST_BYTES:
            raise NoRoomError(
                f"{len(self._files)} files of {held} bytes are kept, at most {MOST_FILES} of {MOST_BYTES}; delete some"
            )
        file = StoredFile(f"file-{uuid.uuid4().hex}", len(content), int(self._clock()), filename[:255], purpose)
        write_atomic(self.path(file.id), content)
        write_json(self._told(file.id), asdict(file))
        self._files[file.id] = file
        return file

    def find(self, file_id: str) -> StoredFile | None:
        """A file, None where there is none.

        Args:
            file_id: any text.
        """
        return self._files.get(file_id)

    def all(self) -> list[StoredFile]:
        """Every file, the latest first."""
        return sorted(self._files.values(), key=lambda file: (file.created_at, file.id), reverse=True)

    def path(self, file_id: str) -> Path:
        """Where a file's content is.

        Args:
            file_id: of a file that is kept.
        """
        return self._folder / f"{file_id}.jsonl"

    def delete(self, file_id: str) -> None:
        """Forget a file.

        Args:
            file_id: of one that is kept.
        """
        del self._files[file_id]
        self._told(file_id).unlink(missing_ok=True)
        self.path(file_id).unlink(missing_ok=True)

    def _told(self, file_id: str) -> Path:
        return self._folder / f"{file_id}.json"
