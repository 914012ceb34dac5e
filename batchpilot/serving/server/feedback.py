"""A score of an answer, from whoever can judge it: users, or a program that does. The limits do not follow it."""

from __future__ import annotations

from typing import Annotated, Any

from fastapi import APIRouter
from pydantic import BaseModel, ConfigDict, Field

from batchpilot.serving.server.service import Service


class FeedbackBody(BaseModel):
    """One score.

    Attributes:
        score: 0 for useless to 1 for perfect.
        id: the answer's, for the judge's own records; nothing is kept of it here.
    """

    model_config = ConfigDict(extra="forbid")

    score: Annotated[float, Field(ge=0.0, le=1.0, allow_inf_nan=False)]
    id: Annotated[str, Field(max_length=200)] | None = None


def feedback_route(service: Service) -> APIRouter:
    """The route `POST /v1/feedback`.

    Args:
        service: whose metrics count scores.
    """
    router = APIRouter()
    refused: dict[int | str, dict[str, Any]] = {400: {"description": "The error names the field."}}

    @router.post("/v1/feedback", tags=["metrics"], responses=refused, summary="Score an answer")
    async def feedback(body: FeedbackBody) -> dict[str, Any]:
        service.metrics.score(body.score)
        return {"success": True, "score": body.score}

    return router
