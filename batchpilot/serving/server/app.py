"""The application: every route over one service."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from importlib.metadata import version

from fastapi import FastAPI

from batchpilot.engines import DetectedDevice
from batchpilot.serving.server import errors
from batchpilot.serving.server.openai_routes import openai_routes
from batchpilot.serving.server.service import Service
from batchpilot.serving.server.tuner_routes import tuner_routes
from batchpilot.serving.server.watching import watching_routes


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
    )
    errors.install(app)
    app.include_router(openai_routes(service))
    app.include_router(tuner_routes(service, device))
    app.include_router(watching_routes(service, device))
    _document_truly(app)
    return app


def _document_truly(app: FastAPI) -> None:
    """Take the framework's 422 out of the document: what it means is answered with 400, in OpenAI's shape."""
    document = app.openapi()
    for operations in document["paths"].values():
        for operation in operations.values():
            if operation["responses"].pop("422", None) is not None:
                operation["responses"].setdefault("400", {"description": "The request cannot be meant."})
    for unused in ("HTTPValidationError", "ValidationError"):
        document.get("components", {}).get("schemas", {}).pop(unused, None)
