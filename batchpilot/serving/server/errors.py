"""Answers to what cannot be done, in OpenAI's error shape: `{"error": {"message", "type", "param", "code"}}`."""

from __future__ import annotations

import math
from collections.abc import Mapping
from typing import Any

from fastapi import FastAPI, Request
from fastapi.exceptions import RequestValidationError
from fastapi.responses import JSONResponse
from starlette.exceptions import HTTPException

KINDS = {
    400: "invalid_request_error",
    401: "authentication_error",
    403: "permission_error",
    404: "not_found_error",
    405: "invalid_request_error",
    409: "conflict_error",
    413: "invalid_request_error",
    422: "invalid_request_error",
    500: "server_error",
    503: "overloaded_error",
    504: "timeout_error",
}


class ApiError(Exception):
    """An answer that is an error.

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
        super().__init__(message)
        self.status = status
        self.headers = dict(headers or {})
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
    return {"error": {"message": message, "type": kind, "param": param, "code": code}}


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
    async def told(_: Request, error: ApiError) -> JSONResponse:
        return JSONResponse(error.body, error.status, error.headers)

    @app.exception_handler(HTTPException)
    async def refused(_: Request, error: HTTPException) -> JSONResponse:
        return JSONResponse(error_body(error.status_code, str(error.detail)), error.status_code, error.headers)

    @app.exception_handler(RequestValidationError)
    async def misunderstood(_: Request, error: RequestValidationError) -> JSONResponse:
        problems = [(_field(problem["loc"]), str(problem["msg"])) for problem in error.errors()]
        message = "; ".join(f"{field}: {problem}" if field else problem for field, problem in problems)
        return JSONResponse(error_body(400, message, problems[0][0] if problems else None), 400)


def _field(location: Any) -> str | None:
    """Where in the body, without the word body and the numbers of alternatives."""
    parts = [str(part) for part in location if part not in ("body", "query")]
    return ".".join(parts) or None
