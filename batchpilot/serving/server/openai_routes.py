"""OpenAI's routes: completions, chat completions, models; answers whole or as server-sent events."""

from __future__ import annotations

from collections.abc import AsyncGenerator
from typing import Any

from fastapi import APIRouter, Request
from fastapi.concurrency import run_in_threadpool
from fastapi.responses import Response

from batchpilot.serving.server.answering import Answer, make_orders
from batchpilot.serving.server.bodies import ChatBody, CommonBody, CompletionBody
from batchpilot.serving.server.chat_prompts import LONG_CHARACTERS, Prompt, chat_prompt
from batchpilot.serving.server.completing import Completing
from batchpilot.serving.server.errors import ApiError
from batchpilot.serving.server.event_stream import EventStream
from batchpilot.serving.server.json_answers import JsonAnswer
from batchpilot.serving.server.shapes import DONE, Shape, event
from batchpilot.serving.server.text import Text, served_name
from batchpilot.serving.server.told_logprobs import TokenLogprob

DEFAULT_COMPLETION_TOKENS = 16
"""What OpenAI's completions take for `max_tokens`, or what the model's context leaves."""

DEFAULT_CHAT_TOKENS = 1024
"""Most tokens of a chat answer that does not say, or what the model's context leaves."""


def openai_routes(service: Completing) -> APIRouter:
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
    async def models() -> JsonAnswer:
        return JsonAnswer({"object": "list", "data": [_model(service)]})

    @router.get("/models/{name:path}", responses={404: errors[404]}, summary="One model")
    async def model(name: str) -> JsonAnswer:
        _check_model(service, name)
        return JsonAnswer(_model(service))

    @router.post("/completions", responses=errors, summary="Continue a text, or several")
    async def completions(body: CompletionBody, request: Request) -> Response:
        _check_model(service, body.model)
        prompts = [
            Prompt(await _tokens(service.text, prompt) if isinstance(prompt, str) else prompt)
            for prompt in body.prompts
        ]
        return await _answer(service, request, body, prompts, DEFAULT_COMPLETION_TOKENS)

    @router.post("/chat/completions", responses=errors, summary="Answer in a conversation")
    async def chat_completions(body: ChatBody, request: Request) -> Response:
        _check_model(service, body.model)
        prompt = await chat_prompt(service.text, body.messages, vision=service.config.vision)
        return await _answer(service, request, body, [prompt], DEFAULT_CHAT_TOKENS)

    return router


def _model(service: Completing) -> dict[str, Any]:
    return {
        "id": service.config.model,
        "object": "model",
        "created": service.started,
        "owned_by": "batchpilot",
        "max_model_len": service.engine.longest,
    }


def _check_model(service: Completing, name: str) -> None:
    wrong = served_name(name, service.config.model)
    if wrong:
        raise ApiError(404, wrong, param="model", code="model_not_found")


async def _tokens(text: Text, prompt: str) -> list[int]:
    return await run_in_threadpool(text.encode, prompt) if len(prompt) > LONG_CHARACTERS else text.encode(prompt)


async def _answer(
    service: Completing, request: Request, body: CommonBody, prompts: list[Prompt], default: int
) -> Response:
    try:
        orders = make_orders(service, body, prompts, default)
    except ValueError as error:
        raise ApiError(400, str(error)) from None
    answer = Answer(service, request, orders, body)
    await answer.begin()
    shape = Shape(service.config.model, chat=isinstance(body, ChatBody))
    prompt_tokens = sum(len(prompt.tokens) for prompt in prompts)
    if body.stream:
        events = _events(answer, shape, body, prompt_tokens)
        return EventStream(events)
    texts = [""] * len(orders)
    finished: list[str | None] = [None] * len(orders)
    logprobs: list[list[TokenLogprob]] = [[] for _ in orders]
    try:
        while deltas := await answer.deltas():
            for delta in deltas:
                texts[delta.choice] += delta.text
                finished[delta.choice] = delta.finished
                if delta.logprob is not None:
                    logprobs[delta.choice].append(delta.logprob)
    finally:
        answer.close()
    told = None if body.wanted_logprobs is None else logprobs
    return JsonAnswer(shape.whole(texts, finished, _usage(prompt_tokens, answer.tokens), told))


async def _events(answer: Answer, shape: Shape, body: CommonBody, prompt_tokens: int) -> AsyncGenerator[str, None]:
    options = body.stream_options
    always = options is not None and bool(options.continuous_usage_stats)
    try:
        while deltas := await answer.deltas():
            yield "".join(
                [shape.chunk(delta, _usage(prompt_tokens, delta.tokens) if always else None) for delta in deltas]
            )
        if options is not None and options.include_usage:
            yield event(shape.usage(_usage(prompt_tokens, answer.tokens)))
    except ApiError as error:
        yield event(error.body)
    finally:
        answer.close()
    yield DONE


def _usage(prompt_tokens: int, tokens: int) -> dict[str, int]:
    return {"prompt_tokens": prompt_tokens, "completion_tokens": tokens, "total_tokens": prompt_tokens + tokens}
