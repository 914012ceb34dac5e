"""`/v1/files` and `/v1/batches`, as OpenAI has them."""

from __future__ import annotations

import asyncio
import time
import uuid
from collections.abc import Sequence
from pathlib import Path
from typing import Annotated, Any, Literal, Protocol, TypeVar

from fastapi import APIRouter, Depends, Query, Request
from fastapi.responses import FileResponse
from pydantic import BaseModel, ConfigDict, Field

from batchpilot.serving.server.authorisation import ChangesAllowed
from batchpilot.serving.server.batches.batch import Batch, BatchStore
from batchpilot.serving.server.batches.files import FileStore, NoRoomError, StoredFile
from batchpilot.serving.server.batches.upload import read_upload
from batchpilot.serving.server.errors import ApiError
from batchpilot.serving.server.json_answers import JsonAnswer

MOST_OPEN = 100
"""Batches that have not ended."""

_WINDOW = r"(?:[1-9]|1[0-9]|2[0-4])h"
_MOST_LISTED = 100


class _Listed(Protocol):
    @property
    def id(self) -> str: ...

    def to_dict(self) -> dict[str, Any]: ...


Entry = TypeVar("Entry", bound=_Listed)
Limit = Annotated[int, Query(ge=1, le=_MOST_LISTED)]
Label = Annotated[str, Field(max_length=512)]


class BatchBody(BaseModel):
    """Body of `POST /v1/batches`.

    Attributes:
        input_file_id: of an uploaded file.
        endpoint: of all its requests.
        completion_window: in which they are to be answered, `24h` or fewer hours.
        metadata: the client's.
    """

    model_config = ConfigDict(extra="forbid")

    input_file_id: Label
    endpoint: Literal["/v1/chat/completions", "/v1/completions"]
    completion_window: Annotated[str, Field(pattern=f"^{_WINDOW}$")] = "24h"
    metadata: Annotated[dict[Annotated[str, Field(max_length=64)], Label], Field(max_length=16)] | None = None


def batch_routes(files: FileStore, batches: BatchStore, token: str | None) -> APIRouter:
    """The routes; all of them need the server's token where it has one: files are of one client, and take room.

    Args:
        files: the folder of files.
        batches: likewise.
        token: of the server.
    """
    router = APIRouter(prefix="/v1", tags=["Batch API"], dependencies=[Depends(ChangesAllowed(token))])
    _add_files(router, files, batches)
    _add_batches(router, files, batches)
    return router


def _add_files(router: APIRouter, files: FileStore, batches: BatchStore) -> None:
    """Files: uploaded, listed, read, deleted once no batch needs them."""
    form = {
        "type": "object",
        "properties": {"file": {"type": "string", "format": "binary"}, "purpose": {"type": "string"}},
    }

    @router.post(
        "/files",
        summary="Upload a file of requests",
        openapi_extra={"requestBody": {"required": True, "content": {"multipart/form-data": {"schema": form}}}},
    )
    async def upload(request: Request) -> JsonAnswer:
        body = await request.body()
        try:
            given = await asyncio.to_thread(read_upload, request.headers.get("content-type", ""), body)
        except ValueError as error:
            raise ApiError(400, str(error), param="file") from None
        if given.fields.get("purpose") != "batch":
            raise ApiError(400, "purpose must be 'batch': there is no other here", param="purpose")
        try:
            file = await asyncio.to_thread(files.add, given.content, given.filename, "batch")
        except NoRoomError as full:
            raise ApiError(503, str(full), code="files_full") from None
        except OSError as error:
            raise ApiError(503, f"the file cannot be kept: {error.strerror}", code="files_full") from None
        return JsonAnswer(file.to_dict())

    @router.get("/files", summary="The files that are kept")
    async def list_files(limit: Limit = 20, after: str | None = None, purpose: str | None = None) -> JsonAnswer:
        kept = [file for file in files.all() if purpose in (None, file.purpose)]
        return JsonAnswer(_page(kept, limit, after))

    @router.get("/files/{file_id}", summary="One file")
    async def one_file(file_id: str) -> JsonAnswer:
        return JsonAnswer(_file(files, file_id).to_dict())

    @router.get("/files/{file_id}/content", summary="Its content")
    async def content(file_id: str) -> FileResponse:
        file = _file(files, file_id)
        return FileResponse(files.path(file.id), media_type="application/jsonl", filename=Path(file.filename).name)

    @router.delete("/files/{file_id}", summary="Delete a file")
    async def delete(file_id: str) -> JsonAnswer:
        file = _file(files, file_id)
        used = [batch.id for batch in batches.all() if batch.open and batch.input_file_id == file.id]
        if used:
            raise ApiError(409, f"the batch {used[0]} needs the file until it has ended", code="file_in_use")
        files.delete(file.id)
        return JsonAnswer({"id": file.id, "object": "file", "deleted": True})


def _add_batches(router: APIRouter, files: FileStore, batches: BatchStore) -> None:
    """Batches: made of a file, listed, looked at, cancelled."""

    @router.post("/batches", summary="Have a file's requests answered")
    async def create(body: BatchBody) -> JsonAnswer:
        file = _file(files, body.input_file_id, "input_file_id")
        if file.purpose != "batch":
            raise ApiError(400, f"the file {file.id} holds answers, not requests", param="input_file_id")
        if sum(batch.open for batch in batches.all()) >= MOST_OPEN:
            raise ApiError(503, f"{MOST_OPEN} batches have not ended; wait for one", code="batches_full")
        now = int(time.time())
        expires = now + 3600 * int(body.completion_window.removesuffix("h"))
        batch = Batch(
            f"batch_{uuid.uuid4().hex}", body.endpoint, file.id, body.completion_window, now, expires, body.metadata
        )
        batches.keep(batch)
        return JsonAnswer(batch.to_dict())

    @router.get("/batches", summary="The batches, the latest first")
    async def list_batches(limit: Limit = 20, after: str | None = None) -> JsonAnswer:
        return JsonAnswer(_page(batches.all()[::-1], limit, after))

    @router.get("/batches/{batch_id}", summary="Where a batch stands")
    async def one_batch(batch_id: str) -> JsonAnswer:
        return JsonAnswer(_batch(batches, batch_id).to_dict())

    @router.post("/batches/{batch_id}/cancel", summary="End a batch; what has been answered stays")
    async def cancel(batch_id: str) -> JsonAnswer:
        batch = _batch(batches, batch_id)
        if batch.status not in ("validating", "in_progress", "cancelling"):
            raise ApiError(409, f"the batch is {batch.status} and cannot be cancelled", code="batch_ended")
        if batch.status != "cancelling":
            batch.status = "cancelling"
            batch.times["cancelling_at"] = int(time.time())
            batches.keep(batch)
        return JsonAnswer(batch.to_dict())


def _file(files: FileStore, file_id: str, param: str = "file_id") -> StoredFile:
    file = files.find(file_id)
    if file is None:
        raise ApiError(404, f"there is no file {file_id[:80]!r}", param=param, code="file_not_found")
    return file


def _batch(batches: BatchStore, batch_id: str) -> Batch:
    batch = batches.find(batch_id)
    if batch is None:
        raise ApiError(404, f"there is no batch {batch_id[:80]!r}", param="batch_id", code="batch_not_found")
    return batch


def _page(entries: Sequence[Entry], limit: int, after: str | None) -> dict[str, Any]:
    """A part of a list, from behind an entry on."""
    ids = [entry.id for entry in entries]
    start = ids.index(after) + 1 if after in ids else 0
    shown = entries[start : start + limit]
    ends = {"first_id": shown[0].id, "last_id": shown[-1].id} if shown else {"first_id": None, "last_id": None}
    return {
        "object": "list",
        "data": [entry.to_dict() for entry in shown],
        **ends,
        "has_more": start + limit < len(entries),
    }
