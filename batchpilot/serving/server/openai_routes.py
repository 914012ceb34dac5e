"""OpenAI's routes: completions, chat completions, models; answers whole or as server-sent events."""

from __future__ import annotations

import json
import time
import uuid
from collections.abc import AsyncIterator
from typing import Any

from fastapi import APIRouter, Request
from fastapi.responses import JSONResponse, Response, StreamingResponse

from batchpilot.serving.server.answering import Answer, Delta, make_order
from batchpilot.serving.server.bodies import ChatBody, CommonBody, CompletionBody
from batchpilot.serving.server.errors import ApiError
from batchpilot.serving.server.service import Service

DEFAULT_COMPLETION_TOKENS = 16
"""What OpenAI's completions take for `max_tokens`."""

DEFAULT_CHAT_TOKENS = 1024
"""Most tokens of a chat answer that does not say, or what the model's context leaves."""

_DONE = "data: [DONE]\n\n"


class _Shape:
    """How the two kinds of answers look.

    Args:
        model: its name.
        chat: whether it is a conversation.
    """

    def __init__(self, model: str, chat: bool) -> None:
        self.chat = chat
        self._head = {
            "id": f"{'chatcmpl' if chat else 'cmpl'}-{uuid.uuid4().hex}",
            "created": int(time.time()),
            "model": model,
        }

    def whole(self, text: str, finished: str | None, usage: dict[str, int]) -> dict[str, Any]:
        said: dict[str, Any] = {"message": {"role": "assistant", "content": text}} if self.chat else {"text": text}
        choice = {"index": 0, **said, "logprobs": None, "finish_reason": finished}
        name = "chat.completion" if self.chat else "text_completion"
        return {**self._head, "object": name, "choices": [choice], "usage": usage}

    def chunk(self, text: str, finished: str | None, *, first: bool) -> dict[str, Any]:
        said: dict[str, Any] = {"text": text}
        if self.chat:
            said = {"delta": {"role": "assistant", "content": text} if first else {"content": text}}
        choice = {"index": 0, **said, "logprobs": None, "finish_reason": finished}
        return {**self._head, "object": self._chunk_name, "choices": [choice]}

    def usage(self, usage: dict[str, int]) -> dict[str, Any]:
        return {**self._head, "object": self._chunk_name, "choices": [], "usage": usage}

    @property
    def _chunk_name(self) -> str:
        return "chat.completion.chunk" if self.chat else "text_completion"


def openai_routes(service: Service) -> APIRouter:
    """The routes under `/v1`.

    Args:
        service: who answers.
    """
    router = APIRouter(prefix="/v1", tags=["OpenAI"])
    errors: dict[int | str, dict[str, Any]] = {
        400: {"description": "The request cannot be meant or served."},
        404: {"description": "Another model."},
        500: {"description": "The engine failed on it."},
        503: {"description": "Refused for now; `Retry-After` says when to come again."},
        504: {"description": "It took too long."},
    }

    @router.get("/models", summary="The model that is served")
    async def models() -> JSONResponse:
        model = {
            "id": service.config.model,
            "object": "model",
            "created": service.started,
            "owned_by": "batchpilot",
            "max_model_len": service.engine.longest,
        }
        return JSONResponse({"object": "list", "data": [model]})

    @router.post("/completions", responses=errors, summary="Continue a text")
    async def completions(body: CompletionBody, request: Request) -> Response:
        prompt = service.text.encode(body.prompt) if isinstance(body.prompt, str) else body.prompt
        return await _answer(service, request, body, prompt, body.max_tokens or DEFAULT_COMPLETION_TOKENS, chat=False)

    @router.post("/chat/completions", responses=errors, summary="Answer in a conversation")
    async def chat_completions(body: ChatBody, request: Request) -> Response:
        try:
            prompt = service.text.encode_chat([message.model_dump(exclude_none=True) for message in body.messages])
        except ValueError as error:
            raise ApiError(400, str(error), param="messages") from None
        wanted = body.max_completion_tokens or body.max_tokens
        left = max(service.engine.longest - len(prompt), 1)
        return await _answer(service, request, body, prompt, wanted or min(DEFAULT_CHAT_TOKENS, left), chat=True)

    return router


async def _answer(
    service: Service, request: Request, body: CommonBody, prompt: list[int], max_tokens: int, *, chat: bool
) -> Response:
    try:
        answer = Answer(service, request, make_order(service, body, prompt, max_tokens), body)
    except ValueError as error:
        raise ApiError(400, str(error)) from None
    await answer.begin()
    shape = _Shape(service.config.model, chat)
    if body.stream:
        wants_usage = body.stream_options is not None and body.stream_options.include_usage
        return StreamingResponse(_events(answer, shape, wants_usage), media_type="text/event-stream")
    text, last = "", Delta("", None, 0)
    try:
        async for last in answer.deltas():
            text += last.text
    finally:
        answer.close()
    return JSONResponse(shape.whole(text, last.finished, _usage(answer, last)))


async def _events(answer: Answer, shape: _Shape, wants_usage: bool) -> AsyncIterator[str]:
    last = Delta("", None, 0)
    first = True
    try:
        async for last in answer.deltas():
            yield _event(shape.chunk(last.text, last.finished, first=first))
            first = False
        if wants_usage:
            yield _event(shape.usage(_usage(answer, last)))
    except ApiError as error:
        yield _event(error.body)
    finally:
        answer.close()
    yield _DONE


def _event(data: dict[str, Any]) -> str:
    return f"data: {json.dumps(data, ensure_ascii=False)}\n\n"


def _usage(answer: Answer, last: Delta) -> dict[str, int]:
    prompt = len(answer.generation.order.prompt)
    return {"prompt_tokens": prompt, "completion_tokens": last.tokens, "total_tokens": prompt + last.tokens}
