"""Routes for whoever watches: health, readiness, Prometheus metrics, the live page and the numbers that it shows."""

from __future__ import annotations

import math
from importlib.resources import files
from typing import Annotated, Any

from fastapi import APIRouter, Query
from fastapi.concurrency import run_in_threadpool
from fastapi.responses import Response

from batchpilot.engines import DetectedDevice
from batchpilot.serving.doors.pages import MEDIA_TYPES, PAGE_HEADERS
from batchpilot.serving.server.alerts import alert_rules
from batchpilot.serving.server.errors import ApiError
from batchpilot.serving.server.grafana import dashboard
from batchpilot.serving.server.json_answers import JsonAnswer
from batchpilot.serving.server.metrics import CONTENT_TYPE
from batchpilot.serving.server.service import Service
from batchpilot.serving.server.tuner_routes import decision_list, tuner_status


def watching_routes(service: Service, device: DetectedDevice | None) -> APIRouter:
    """The routes.

    Args:
        service: what is watched.
        device: what the engine runs on, None for unknown.
    """
    router = APIRouter()
    unwell: dict[int | str, dict[str, Any]] = {503: {"description": "It is not; the answer says why."}}

    @router.get("/health", tags=["health"], responses=unwell, summary="Whether the engine is well")
    async def health() -> JsonAnswer:
        trouble = service.trouble
        return JsonAnswer({"status": trouble or "ok"}, 503 if trouble else 200)

    @router.get("/ready", tags=["health"], responses=unwell, summary="Whether new requests are taken")
    async def ready() -> JsonAnswer:
        trouble = "shutting down" if service.draining else service.trouble
        return JsonAnswer({"status": trouble or "ready"}, 503 if trouble else 200)

    @router.get("/metrics", tags=["metrics"], summary="Prometheus metrics", response_class=Response)
    async def metrics() -> Response:
        return Response(await run_in_threadpool(service.metrics.text), media_type=CONTENT_TYPE)

    @router.get("/grafana.json", tags=["metrics"], summary="A Grafana dashboard over the metrics")
    async def grafana() -> dict[str, Any]:
        return dashboard()

    @router.get("/alerts.yml", tags=["metrics"], summary="Prometheus alerts over the metrics", response_class=Response)
    async def alerts() -> Response:
        return Response(alert_rules(service.config.slo), media_type="application/yaml")

    @router.get("/api/live", tags=["metrics"], summary="What the live page shows")
    async def live(
        after: Annotated[
            float | None, Query(description="Only windows that ended later, in ms of engine time.")
        ] = None,
    ) -> dict[str, Any]:
        after_ms = -math.inf if after is None else after
        return await run_in_threadpool(_live, service, device, after_ms)

    parts = {part.name: part.read_bytes() for part in files(__package__).joinpath("page").iterdir()}

    @router.get("/", include_in_schema=False)
    async def page() -> Response:
        return await page_part("index.html")

    @router.get("/page/{name}", include_in_schema=False)
    async def page_part(name: str) -> Response:
        if name not in parts:
            raise ApiError(404, f"the live page has no part {name!r}")
        return Response(parts[name], headers=PAGE_HEADERS, media_type=MEDIA_TYPES[name.rpartition(".")[2]])

    return router


def _live(service: Service, device: DetectedDevice | None, after_ms: float) -> dict[str, Any]:
    return {
        "model": service.config.model,
        "started": service.started,
        "draining": service.draining,
        "trouble": service.trouble,
        "slo": {"ttft_target_ms": service.config.slo.ttft_ms, "tpot_target_ms": service.config.slo.tpot_ms},
        "now_ms": service.session.now_ms,
        "engine": {**service.engine.gauges._asdict(), "stalled_s": service.engine.stalled_s},
        "status": tuner_status(service, device),
        "windows": service.history.rows(after_ms),
        "decisions": decision_list(service)[-8:],
    }
