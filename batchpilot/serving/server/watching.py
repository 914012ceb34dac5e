"""Routes for whoever watches: health, readiness, Prometheus metrics, the live page and the numbers that it shows."""

from __future__ import annotations

from importlib.resources import files
from typing import Any

from fastapi import APIRouter
from fastapi.concurrency import run_in_threadpool
from fastapi.responses import HTMLResponse, JSONResponse, Response

from batchpilot.engines import DetectedDevice
from batchpilot.serving.server.grafana import dashboard
from batchpilot.serving.server.metrics import CONTENT_TYPE
from batchpilot.serving.server.service import Service
from batchpilot.serving.server.tuner_routes import decision_list, plain, tuner_status

PAGE_POLICY = (
    "default-src 'none'; style-src 'unsafe-inline'; script-src 'unsafe-inline'; connect-src 'self'; img-src data:"
)
"""The live page may load nothing from anywhere but its own numbers."""


def watching_routes(service: Service, device: DetectedDevice | None) -> APIRouter:
    """The routes.

    Args:
        service: what is watched.
        device: what the engine runs on, None for unknown.
    """
    router = APIRouter()
    unwell: dict[int | str, dict[str, Any]] = {503: {"description": "It is not; the answer says why."}}

    @router.get("/health", tags=["health"], responses=unwell, summary="Whether the engine is well")
    async def health() -> JSONResponse:
        trouble = service.trouble
        return JSONResponse({"status": trouble or "ok"}, 503 if trouble else 200)

    @router.get("/ready", tags=["health"], responses=unwell, summary="Whether new requests are taken")
    async def ready() -> JSONResponse:
        trouble = "shutting down" if service.draining else service.trouble
        return JSONResponse({"status": trouble or "ready"}, 503 if trouble else 200)

    @router.get("/metrics", tags=["metrics"], summary="Prometheus metrics", response_class=Response)
    async def metrics() -> Response:
        return Response(await run_in_threadpool(service.metrics.text), media_type=CONTENT_TYPE)

    @router.get("/grafana.json", tags=["metrics"], summary="A Grafana dashboard over the metrics")
    async def grafana() -> dict[str, Any]:
        return dashboard()

    @router.get("/api/live", tags=["metrics"], summary="What the live page shows")
    async def live() -> dict[str, Any]:
        return await run_in_threadpool(lambda: plain(_live(service, device)))

    @router.get("/", include_in_schema=False)
    async def page() -> HTMLResponse:
        headers = {"Content-Security-Policy": PAGE_POLICY, "Cache-Control": "no-cache"}
        return HTMLResponse(files(__package__).joinpath("page.html").read_text("utf-8"), headers=headers)

    return router


def _live(service: Service, device: DetectedDevice | None) -> dict[str, Any]:
    return {
        "model": service.config.model,
        "trouble": "shutting down" if service.draining else service.trouble,
        "now_ms": service.session.now_ms,
        "engine": service.engine.gauges._asdict(),
        "status": tuner_status(service, device),
        "windows": service.history.rows(),
        "decisions": decision_list(service)[-12:],
    }
