"""The tuner's run-time interface: status, config, reset and batch size as SPEC 1 has them, and more for operators.

A refused call changes nothing and names the field.
"""

from __future__ import annotations

from typing import Annotated, Any, Literal

from fastapi import APIRouter, Depends, Query, Request
from fastapi.concurrency import run_in_threadpool
from pydantic import BaseModel, ConfigDict, Field, StrictInt, field_validator

from batchpilot.configs.errors import ConfigError
from batchpilot.configs.tuner import TunerConfig
from batchpilot.core import TRACKS
from batchpilot.core.names import lookup
from batchpilot.engines import DetectedDevice
from batchpilot.serving.rollout.control import POLICY, NotForThisTunerError, TunerControl
from batchpilot.serving.server.authorisation import ChangesAllowed
from batchpilot.serving.server.errors import TUNER_API, ApiError
from batchpilot.serving.server.service import Service
from batchpilot.tuners import TUNERS, NotObeyedError, tuner_name

Json = dict[str, Any]

_NAMES = [name for name in TUNERS if name != POLICY]
TunerName = Annotated[str, Field(min_length=1, max_length=100, json_schema_extra={"enum": _NAMES})]


class BatchSizeBody(BaseModel):
    """A batch size chosen by hand.

    Attributes:
        batch_size: most requests in a step, within the configured bounds.
    """

    model_config = ConfigDict(extra="forbid")

    batch_size: Annotated[StrictInt, Field(ge=1, le=2**31)]


class StrategyBody(BaseModel):
    """Another tuner.

    Attributes:
        strategy: its name.
        track: the fields it may move; None for those of before.
    """

    model_config = ConfigDict(extra="forbid")

    strategy: TunerName
    track: Annotated[str, Field(max_length=100, json_schema_extra={"enum": list(TRACKS)})] | None = None

    @field_validator("track")
    @classmethod
    def _known(cls, track: str | None) -> str | None:
        if track is not None:
            lookup(TRACKS, track, "track")
        return track


class ShadowBody(BaseModel):
    """A tuner that advises.

    Attributes:
        strategy: its name.
    """

    model_config = ConfigDict(extra="forbid")

    strategy: TunerName


class LatencyStageBody(BaseModel):
    """How far what is learned of step latency is believed.

    Attributes:
        stage: where its roll-out stands.
        share: of the windows, for partial; None keeps the present one.
    """

    model_config = ConfigDict(extra="forbid")

    stage: Literal["offline", "shadow", "partial", "full"]
    share: Annotated[float, Field(ge=0, le=1)] | None = None


def tuner_routes(service: Service, device: DetectedDevice | None) -> APIRouter:
    """The routes under `/api/scheduler/tuner`.

    Args:
        service: whose tuner.
        device: what the engine runs on, None for unknown.
    """
    router = APIRouter(prefix=TUNER_API, tags=["tuner"])
    errors: dict[int | str, dict[str, Any]] = {
        400: {"description": "Refused as a whole; the error names the field."},
        401: {"description": "The token is missing."},
        403: {"description": "The token is wrong, or the page is a foreign one."},
        409: {"description": "The tuner in force has no such command, or is disabled or static; nothing was changed."},
    }
    changes: dict[str, Any] = {"dependencies": [Depends(ChangesAllowed(service.config.token))], "responses": errors}
    _add_status(router, service, device)
    _add_commands(router, service, device, changes)
    _add_tuners(router, service.control, changes)
    _add_policies(router, service.control, changes)

    @router.get("/decisions", summary="The last changes of limits, oldest first")
    async def decisions() -> list[Json]:
        return decision_list(service)

    return router


def _add_status(router: APIRouter, service: Service, device: DetectedDevice | None) -> None:
    """What anybody may ask."""

    @router.get("/status", summary="What the tuner does, and why")
    async def status() -> Json:
        return await run_in_threadpool(tuner_status, service, device)

    @router.get("/config", summary="The configuration in force")
    async def config() -> Json:
        return service.control.config.to_dict()


def _add_commands(router: APIRouter, service: Service, device: DetectedDevice | None, changes: dict[str, Any]) -> None:
    """What the tuner in force can be told."""
    control = service.control
    configuration = {"content": {"application/json": {"schema": TunerConfig.model_json_schema()}}}

    @router.post(
        "/config",
        summary="Change any subset of the configuration",
        openapi_extra={"requestBody": configuration},
        **changes,
    )
    async def configure(body: Json) -> Json:
        config: TunerConfig = await _changed(lambda: control.configure(body))
        advice = list(config.advice(body.keys()).values())
        message = f"changed: {', '.join(body)}" if body else "nothing was asked for, nothing was changed"
        new_config = config.to_dict()
        return _done(message, new_config=new_config, warnings=advice, **new_config)

    @router.post("/reset", summary="Forget everything learned", **changes)
    async def reset() -> Json:
        message = await _changed(control.reset)
        return _done(message, **await run_in_threadpool(tuner_status, service, device))

    @router.post("/batch-size", summary="Run with a batch size chosen by hand", **changes)
    async def batch_size(body: BatchSizeBody) -> Json:
        await _changed(lambda: control.set_batch_size(body.batch_size), param="batch_size")
        return _done(f"batch size {body.batch_size} was set by hand", batch_size=body.batch_size)

    @router.post("/probe", summary="Probe again from the initial size", **changes)
    async def probe() -> Json:
        await _changed(control.probe)
        return _done("the probe begins at the initial size", **await run_in_threadpool(tuner_status, service, device))


def _add_tuners(router: APIRouter, control: TunerControl, changes: dict[str, Any]) -> None:
    """Who decides, who advises, and what is believed of learned latency."""

    @router.post("/strategy", summary="Let another tuner decide", **changes)
    async def strategy(body: StrategyBody) -> Json:
        await _changed(lambda: control.switch(body.strategy, body.track), param="strategy")
        name = tuner_name(body.strategy)
        return _done(f"{name} decides from now on", strategy=name, track=control.status()["track"])

    @router.post("/latency-stage", summary="Believe what is learned of step latency, or only compare", **changes)
    async def latency_stage(body: LatencyStageBody) -> Json:
        await _changed(lambda: control.stage_latency(body.stage, body.share), param="stage")
        return _done(f"what is learned of step latency is in stage {body.stage}", stage=body.stage)

    @router.post("/shadow", summary="Let a second tuner advise without deciding", **changes)
    async def shadow(body: ShadowBody) -> Json:
        await _changed(lambda: control.advise_by(body.strategy), param="strategy")
        name = tuner_name(body.strategy)
        return _done(f"{name} advises", shadow=name)

    @router.delete("/shadow", summary="No adviser any more", **changes)
    async def no_shadow() -> Json:
        await _changed(lambda: control.advise_by(None))
        return _done("nobody advises any more", shadow=None)


def _add_policies(router: APIRouter, control: TunerControl, changes: dict[str, Any]) -> None:
    """A policy of the user's own, on trial."""

    @router.post(
        "/policy",
        summary="Upload a policy: checked, tried in a share of the windows, kept or rolled back",
        openapi_extra={"requestBody": {"required": True, "content": {"application/octet-stream": {}}}},
        **changes,
    )
    async def policy(
        request: Request,
        share: Annotated[float, Query(gt=0, le=1)] = 0.1,
        promote_after: Annotated[int, Query(ge=1, le=100_000)] = 30,
    ) -> Json:
        data = await request.body()
        tried = await _changed(lambda: control.try_policy(data, share, promote_after), param="policy")
        return _done("the policy is on trial", **tried)

    @router.delete("/policy", summary="End a policy's trial", **changes)
    async def no_policy() -> Json:
        withdrawn = await _changed(control.withdraw_policy)
        return _done("the trial has ended" if withdrawn else "there was no trial", withdrawn=withdrawn)


def tuner_status(service: Service, device: DetectedDevice | None) -> Json:
    """The status of SPEC 1, with more beside it.

    Args:
        service: whose tuner.
        device: what the engine runs on.
    """
    known = service.control.status()
    latest = service.session.latest
    measured = {
        "throughput": latest.throughput_tokens_per_s if latest else 0.0,
        "gpu_utilization": latest.utilisation if latest else 0.0,
        "memory_utilization": latest.memory_fraction if latest else 0.0,
        "processing_time_ms": latest.step_ms_mean if latest and latest.steps else 0.0,
    }
    always = {"best_batch_size": None, "best_score": 0.0, "is_stabilized": False, "consecutive_failures": 0}
    return {
        **always,
        **known,
        **measured,
        "phase": known.get("phase", "STABLE_RUNNING"),
        "current_batch_size": service.session.limits().batch_size,
        "gpu_model": device.model if device else "unknown",
        "gpu_memory_mb": device.total_memory_mb if device else 0.0,
    }


def decision_list(service: Service) -> list[Json]:
    """The last changes of limits as plain data.

    Args:
        service: whose tuner.
    """
    return [
        {
            "at_ms": decision.at_ms,
            "age_s": (service.session.now_ms - decision.at_ms) / 1000.0,
            "before": decision.before.to_dict(),
            "after": decision.after.to_dict(),
            "reason": decision.reason,
        }
        for decision in service.session.decisions
    ]


def _done(message: str, **more: Any) -> Json:
    """An answer to a change that was made."""
    return {"success": True, "message": message, **more}


async def _changed(action: Any, *, param: str | None = None) -> Any:
    """Do it away from the event loop: the tuner may be thinking. What it refuses is an answer."""
    try:
        return await run_in_threadpool(action)
    except ConfigError as error:
        field = next(iter(error.problems), None)
        raise ApiError(400, str(error), param=field, code="invalid_config") from None
    except (NotForThisTunerError, NotObeyedError) as error:
        raise ApiError(409, str(error), param=param) from None
    except (ValueError, ImportError) as error:
        raise ApiError(400, str(error), param=param) from None
