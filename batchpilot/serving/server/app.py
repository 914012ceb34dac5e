"""The application: every route over one service."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from importlib.metadata import version

from fastapi import FastAPI
from fastapi.responses import HTMLResponse, Response

from batchpilot.engines import DetectedDevice
from batchpilot.serving.doors.pages import PAGE_HEADERS
from batchpilot.serving.server import errors
from batchpilot.serving.server.batches.batch import BatchStore
from batchpilot.serving.server.batches.files import FileStore
from batchpilot.serving.server.batches.places import Places
from batchpilot.serving.server.batches.routes import batch_routes
from batchpilot.serving.server.batches.runner import BatchRunner
from batchpilot.serving.server.document import document_truly
from batchpilot.serving.server.doors import bounds, stand_before
from batchpilot.serving.server.feedback import feedback_route
from batchpilot.serving.server.json_answers import JsonAnswer
from batchpilot.serving.server.openai_routes import openai_routes
from batchpilot.serving.server.reference import reference_page
from batchpilot.serving.server.service import Service
from batchpilot.serving.server.tuner_routes import tuner_routes
from batchpilot.serving.server.watching import watching_routes


def build_app(service: Service, device: DetectedDevice | None = None) -> FastAPI:
    """The application of a service; its engine's thread starts and stops with it.

    Args:
        service: what answers.
        device: what the engine runs on, None for unknown.
    """
    folder = service.config.batch_folder
    files = None if folder is None else FileStore(folder / "files")
    batches = None if folder is None else BatchStore(folder / "batches")

    @asynccontextmanager
    async def lifespan(_: FastAPI) -> AsyncIterator[None]:
        service.engine.start(asyncio.get_running_loop())
        running = None
        if files is not None and batches is not None:
            places = Places(service.session.limits, lambda: service.engine.gauges)
            running = asyncio.ensure_future(BatchRunner(files, batches, app, places).run())
        try:
            yield
        finally:
            service.draining = True
            if running is not None:
                running.cancel()
                await asyncio.gather(running, return_exceptions=True)
            await asyncio.to_thread(service.engine.stop)
            service.session.close()

    app = FastAPI(
        title="batchpilot",
        version=version("batchpilot"),
        description="OpenAI's API over a live engine whose batching limits a tuner sets.",
        lifespan=lifespan,
        default_response_class=JsonAnswer,
        docs_url=None,
        redoc_url=None,
    )
    errors.install(app)
    app.include_router(openai_routes(service))
    app.include_router(tuner_routes(service, device))
    app.include_router(watching_routes(service, device))
    app.include_router(feedback_route(service))
    if files is not None and batches is not None:
        app.include_router(batch_routes(files, batches, service.config.token))

    @app.get("/docs", include_in_schema=False)
    async def docs() -> Response:
        return HTMLResponse(reference_page(app.openapi()), headers=PAGE_HEADERS)

    stand_before(app, service.config, service.engine.longest)
    document_truly(app, *bounds(service.config, service.engine.longest), token=service.config.token is not None)
    return app
