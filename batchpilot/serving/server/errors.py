"""Answers to what cannot be done, in OpenAI's error shape: `{"error": {"message", "type", "param", "code"}}`."""

from __future__ import annotations

import math
import reprlib
from collections.abc import Mapping
from typing import Any

from fastapi import FastAPI, Request
from fastapi.exceptions import RequestValidationError
from starlette.exceptions import HTTPException

from batchpilot.serving.server.json_answers import JsonAnswer

KINDS = {
    400: "invalid_request_error",
    401: "authentication_error",
    403: "permission_error",
    404: "not_found_error",
    405: "invalid_request_error",
    408: "timeout_error",
    409: "conflict_error",
    413: "invalid_request_error",
    415: "invalid_request_error",
    500: "server_error",
    503: "overloaded_error",
    504: "timeout_error",
}

TUNER_API = "/api/scheduler/tuner"
"""Below it answers carry `success` and `message`, errors too, as the tuner document's clients expect."""

_TEXT_OR_NULL = {"type": ["string", "null"]}
SCHEMA = {
    "type": "object",
    "required": ["error"],
    "properties": {
        "error": {
            "type": "object",
            "required": ["message", "type", "param", "code"],
            "properties": {
                "message": {"type": "string"},
                "type": {"type": "string"},
                "param": _TEXT_OR_NULL,
                "code": _TEXT_OR_NULL,
            },
        }
    },
}
"""Of every such answer, for the OpenAPI document."""

_MOST_PROBLEMS = 5
_ALTERNATIVES = ("str", "int", "float", "bool", "none")


class ApiError(HTTPException):
    """An answer that is an error. The framework passes its kind on wherever it is raised, reading a body included.

    Args:
        status: HTTP status.
        message: what was wrong and what is allowed.
        param: the field that it is about.
        code: what programs may look for.
        headers: of the answer.
    """

    def __init__(
        self,
        status: int,
        message: str,
        *,
        param: str | None = None,
        code: str | None = None,
        headers: Mapping[str, str] | None = None,
    ) -> None:
        super().__init__(status, message, dict(headers or {}))
        self.status = status
        self.body = error_body(status, message, param, code)


def error_body(status: int, message: str, param: str | None = None, code: str | None = None) -> dict[str, Any]:
    """An error as clients of OpenAI's API expect it.

    Args:
        status: HTTP status.
        message: what was wrong.
        param: the field that it is about.
        code: what programs may look for.
    """
    kind = KINDS.get(status, "server_error" if status >= 500 else "invalid_request_error")
    return {"error": {"message": _printable(message), "type": kind, "param": param and _printable(param), "code": code}}


def _printable(text: str) -> str:
    """What a client sent may hold lone surrogates, which cannot be sent back."""
    return text.encode("utf-8", "backslashreplace").decode()


def retry_later(message: str, code: str, wait_ms: float) -> ApiError:
    """A refusal that says when to come again: whole seconds, at least one, at most a minute.

    Args:
        message: why.
        code: what programs may look for.
        wait_ms: a guess; NaN for none.
    """
    seconds = min(max(math.ceil(wait_ms / 1000.0), 1), 60) if math.isfinite(wait_ms) else 1
    return ApiError(503, message, code=code, headers={"Retry-After": str(seconds)})


def install(app: FastAPI) -> None:
    """Answer every error of an application in that shape.

    Args:
        app: the application.
    """

    @app.exception_handler(ApiError)
    async def told(request: Request, error: ApiError) -> JsonAnswer:
        return _answer(request, error.body, error.status, error.headers)

    @app.exception_handler(HTTPException)
    async def refused(request: Request, error: HTTPException) -> JsonAnswer:
        if error.status_code == 405:
            # The framework knows the methods of one of a path's routes only.
            methods = app.openapi()["paths"].get(request.url.path, {})
            error.headers = {"Allow": ", ".join(map(str.upper, methods))} if methods else error.headers
        # The framework's word for a body that JSON's decoder gave up on says nothing; the decoder's does.
        unread = error.status_code == 400 and error.__cause__ is not None
        message = f"the body cannot be read as JSON: {error.__cause__}" if unread else str(error.detail)
        return _answer(request, error_body(error.status_code, message), error.status_code, error.headers)

    @app.exception_handler(RequestValidationError)
    async def misunderstood(request: Request, error: RequestValidationError) -> JsonAnswer:
        problems = error.errors()
        if any(isinstance(problem.get("input"), bytes) for problem in problems):
            kind = request.headers.get("content-type", "none")
            message = f"the body's content-type is {reprlib.repr(kind)}; send 'application/json'"
            return _answer(request, error_body(415, message, "content-type"), 415)
        said = dict.fromkeys(_said(problem) for problem in problems[:_MOST_PROBLEMS])
        field = _field(problems[0]["loc"]) if problems else None
        return _answer(request, error_body(400, "; ".join(said), field), 400)

    @app.exception_handler(Exception)
    async def failed(request: Request, error: Exception) -> JsonAnswer:
        message = f"the server has a defect: {type(error).__name__}; its log says where"
        return _answer(request, error_body(500, message, code="internal_error"), 500)


def _answer(
    request: Request, body: dict[str, Any], status: int, headers: Mapping[str, str] | None = None
) -> JsonAnswer:
    if request.url.path.startswith(TUNER_API):
        body = {"success": False, "message": body["error"]["message"], **body}
    return JsonAnswer(body, status, headers)


def _said(problem: Mapping[str, Any]) -> str:
    """What is wrong with which field, and what was given."""
    field, kind, given = _field(problem["loc"]), problem["type"], problem.get("input")
    if kind == "extra_forbidden":
        return f"{field}: no such field here; leave it out"
    if kind == "json_invalid":
        return f"the body is no JSON: {problem['ctx']['error']}"
    said = f"{field}: {problem['msg']}" if field else str(problem["msg"])
    return said if given is None or isinstance(given, dict | list) else f"{said}, not {reprlib.repr(given)}"


def _field(location: Any) -> str | None:
    """Where in the body, without the names of alternatives that were tried."""
    parts = [part for part in location if part not in ("body", "query")]
    inner = [part for part in parts[1:] if isinstance(part, int) or (part.isidentifier() and part not in _ALTERNATIVES)]
    return ".".join(map(str, parts[:1] + inner)) or None
