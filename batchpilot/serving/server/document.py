"""The OpenAPI document made true: what every route may answer beside what its own code says."""

from __future__ import annotations

from collections.abc import Mapping

from fastapi import FastAPI

from batchpilot.serving.server.errors import SCHEMA
from batchpilot.serving.server.incoming import Bound

HEALTH_PATHS = ("/health", "/ready")
"""Their 503 says what the 200 says: a status."""


def document_truly(app: FastAPI, bound: Bound, special: Mapping[str, Bound], *, token: bool) -> None:
    """Tell of bounds, errors and the token; take out the framework's 422, which is answered as 400.

    Args:
        app: has all its routes.
        bound: of bodies.
        special: other bounds by path.
        token: whether changes need one here.
    """
    document = app.openapi()
    for path, operations in document["paths"].items():
        size, seconds = special.get(path, bound)
        for method, operation in operations.items():
            responses = operation["responses"]
            if responses.pop("422", None) is not None:
                responses.setdefault("400", {"description": "The request cannot be meant."})
            if method == "post":
                responses["408"] = {"description": f"The body has not come within {seconds:g} s."}
                responses["413"] = {"description": f"The body has more than {size} bytes."}
                responses.setdefault("503", {"description": "Other bodies hold the memory; `Retry-After` says when."})
                responses["415"] = {"description": "The body is compressed, or no JSON where that is meant."}
            for status, response in responses.items():
                if status >= "400" and path not in HEALTH_PATHS:
                    response["content"] = {"application/json": {"schema": SCHEMA}}
            if "security" in operation and not token:
                operation["security"].insert(0, {})
    for unused in ("HTTPValidationError", "ValidationError"):
        document.get("components", {}).get("schemas", {}).pop(unused, None)
