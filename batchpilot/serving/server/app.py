"""The application: every route over one service."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Mapping
from contextlib import asynccontextmanager
from importlib.metadata import version

from fastapi import FastAPI

from batchpilot.engines import DetectedDevice
from batchpilot.serving.control import LARGEST_POLICY_BYTES
from batchpilot.serving.server import errors
from batchpilot.serving.server.incoming import Bound, Incoming, request_bytes
from batchpilot.serving.server.openai_routes import openai_routes
from batchpilot.serving.server.service import Service
from batchpilot.serving.server.tuner_routes import PREFIX, tuner_routes
from batchpilot.serving.server.watching import watching_routes

HEALTH_PATHS = ("/health", "/ready")
"""Their 503 says what the 200 says: a status."""


def build_app(service: Service, device: DetectedDevice | None = None) -> FastAPI:
    """The application of a service; its engine's thread starts and stops with it.

    Args:
        service: what answers.
        device: what the engine runs on, None for unknown.
    """

    @asynccontextmanager
    async def lifespan(_: FastAPI) -> AsyncIterator[None]:
        service.engine.start(asyncio.get_running_loop())
        try:
            yield
        finally:
            service.draining = True
            await asyncio.to_thread(service.engine.stop)
            service.session.close()

    app = FastAPI(
        title="batchpilot",
        version=version("batchpilot"),
        description="OpenAI's API over a live engine whose batching limits a tuner sets.",
        lifespan=lifespan,
        strict_content_type=False,
    )
    errors.install(app)
    app.include_router(openai_routes(service))
    app.include_router(tuner_routes(service, device))
    app.include_router(watching_routes(service, device))
    seconds = service.config.body_s
    bound = Bound(request_bytes(service.engine.longest), seconds)
    special = {f"{PREFIX}/policy": Bound(LARGEST_POLICY_BYTES, 4 * seconds)}
    app.add_middleware(Incoming, bound=bound, special=special)
    _document_truly(app, bound, special)
    return app


def _document_truly(app: FastAPI, bound: Bound, special: Mapping[str, Bound]) -> None:
    """Tell what every route may answer, and take the framework's 422 out: what it means is answered with 400."""
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
                responses["415"] = {"description": "The body is compressed, or no JSON where that is meant."}
            for status, response in responses.items():
                if status >= "400" and path not in HEALTH_PATHS:
                    response["content"] = {"application/json": {"schema": errors.SCHEMA}}
    for unused in ("HTTPValidationError", "ValidationError"):
        document.get("components", {}).get("schemas", {}).pop(unused, None)
