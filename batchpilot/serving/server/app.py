"""The application: every route over one service."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from importlib.metadata import version

from fastapi import FastAPI
from fastapi.responses import HTMLResponse, Response

from batchpilot.engines import DetectedDevice
from batchpilot.serving.server import errors
from batchpilot.serving.server.authorisation import LocalOnly
from batchpilot.serving.server.document import document_truly
from batchpilot.serving.server.errors import TUNER_API
from batchpilot.serving.server.incoming import Bound, Incoming, request_bytes
from batchpilot.serving.server.json_answers import JsonAnswer
from batchpilot.serving.server.openai_routes import openai_routes
from batchpilot.serving.server.reference import reference_page
from batchpilot.serving.server.service import Service
from batchpilot.serving.server.tuner_routes import tuner_routes
from batchpilot.serving.server.watching import PAGE_HEADERS, watching_routes
from batchpilot.tuners.policy.file import MOST_BYTES


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
        default_response_class=JsonAnswer,
        docs_url=None,
        redoc_url=None,
    )
    errors.install(app)
    app.include_router(openai_routes(service))
    app.include_router(tuner_routes(service, device))
    app.include_router(watching_routes(service, device))

    @app.get("/docs", include_in_schema=False)
    async def docs() -> Response:
        return HTMLResponse(reference_page(app.openapi()), headers=PAGE_HEADERS)

    seconds = service.config.body_s
    bound = Bound(request_bytes(service.engine.longest), seconds)
    special = {f"{TUNER_API}/policy": Bound(MOST_BYTES, 4 * seconds)}
    app.add_middleware(Incoming, bound=bound, special=special, most_bytes=1e6 * service.config.bodies_mb)
    if service.config.token is None:
        app.add_middleware(LocalOnly)
    document_truly(app, bound, special, token=service.config.token is not None)
    return app
