"""From a request that was understood to its answer: waits for the engine, gives up in time, notices who leaves."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from typing import NamedTuple

from fastapi import Request

from batchpilot.engines.torch.sampling import Sampling
from batchpilot.serving.server.bodies import CommonBody
from batchpilot.serving.server.errors import ApiError, retry_later
from batchpilot.serving.server.generation import ENDED_WELL, Generation, Order, Piece
from batchpilot.serving.server.service import Service
from batchpilot.serving.server.text import StopStrings, served_name


class Delta(NamedTuple):
    """A token's worth of an answer.

    Attributes:
        text: what it adds, which may be nothing.
        finished: "length" or "stop" with the last one, else None.
        tokens: generated so far.
    """

    text: str
    finished: str | None
    tokens: int


def make_order(service: Service, body: CommonBody, prompt: list[int], max_tokens: int) -> Order:
    """What the engine is asked, once it is known to be possible.

    Args:
        service: whose engine.
        body: what the client asked.
        prompt: token ids.
        max_tokens: most tokens to generate.

    Raises:
        ApiError: the server is going, the model is another, or the request is empty or too long.
    """
    if service.draining:
        raise retry_later("the server is shutting down", "shutting_down", service.config.grace_s * 1000.0)
    wrong = served_name(body.model, service.config.model)
    if wrong:
        raise ApiError(404, wrong, param="model", code="model_not_found")
    if not prompt:
        raise ApiError(400, "the prompt is empty; it must have at least one token", param="prompt")
    longest = service.engine.longest
    if len(prompt) + max_tokens > longest:
        message = (
            f"{len(prompt)} prompt tokens and max_tokens {max_tokens} are {len(prompt) + max_tokens} tokens; "
            f"the longest request is {longest}"
        )
        raise ApiError(400, message, param="max_tokens", code="context_length_exceeded")
    promise = service.config.promise(body.slo, body.ttft_ms, body.tpot_ms)
    return Order(
        prompt=prompt,
        max_tokens=max_tokens,
        sampling=Sampling(
            temperature=1.0 if body.temperature is None else body.temperature,
            top_p=1.0 if body.top_p is None else body.top_p,
            seed=next(service.seeds) if body.seed is None else body.seed,
            stop_token_ids=() if body.ignore_eos else service.text.stop_tokens,
        ),
        ttft_target_ms=promise.ttft_ms,
        tpot_target_ms=promise.tpot_ms,
        priority=body.priority,
        user=body.user,
        arrived_s=service.clock(),
    )


class Answer:
    """One answer as it comes. Used as a context, so that whatever happens nothing stays behind in the engine.

    Args:
        service: whose engine.
        request: whose client may leave.
        order: what is asked.
        body: how the answer ends.

    Attributes:
        generation: the request in the engine.
    """

    def __init__(self, service: Service, request: Request, order: Order, body: CommonBody) -> None:
        self.generation = Generation(order)
        self._service = service
        self._timeout_s = body.timeout_s or service.config.timeout_s
        self._deadline = asyncio.get_running_loop().time() + self._timeout_s
        self._stream, self._stops = service.text.stream(), StopStrings(body.stops)
        self._first: Piece | None = None
        service.engine.submit(self.generation)
        self._watcher = asyncio.create_task(self._cancel_when_gone(request))

    async def begin(self) -> None:
        """Wait until the engine has let the request in and said its first token.

        Raises:
            ApiError: it was refused, failed, or took too long.
        """
        try:
            self._first = await self._piece()
        except BaseException:
            self.close()
            raise

    async def deltas(self) -> AsyncIterator[Delta]:
        """The answer, token by token.

        Raises:
            ApiError: it failed, was cancelled, or took too long.
        """
        tokens = 0
        piece = self._first or await self._piece()
        while True:
            tokens += piece.token is not None
            text = "" if piece.token is None or piece.finished == "stop" else self._stream.add(piece.token)
            text = self._stops.add(text)
            if piece.finished is not None and not self._stops.hit:
                text += self._stops.add(self._stream.rest()) + self._stops.rest()
            if self._stops.hit:
                self._service.engine.cancel(self.generation, satisfied=True)
                yield Delta(text, "stop", tokens)
                return
            yield Delta(text, piece.finished, tokens)
            if piece.finished is not None:
                return
            piece = await self._piece()

    def close(self) -> None:
        """The answer is over, one way or another: what is left of it is cancelled."""
        self._watcher.cancel()
        if not self.generation.ended and not self.generation.cancelled:
            self._service.engine.cancel(self.generation)

    async def _piece(self) -> Piece:
        try:
            async with asyncio.timeout_at(self._deadline):
                piece = await self.generation.pieces.get()
        except TimeoutError:
            message = f"no answer within {self._timeout_s:g} s; it was cancelled"
            raise ApiError(504, message, param="timeout_s", code="timeout") from None
        if piece.finished is not None and piece.finished not in ENDED_WELL:
            raise self._unserved(piece.finished)
        return piece

    def _unserved(self, finished: str) -> ApiError:
        service = self._service
        wait_ms = service.session.predicted_ttft_ms(len(self.generation.order.prompt))
        if finished == "refused_on_arrival":
            return retry_later(
                "too much is waiting already: max_queued_tokens or all places are full", finished, wait_ms
            )
        if finished == "refused_by_guard":
            return retry_later("it could not have been served within its time to first token", finished, wait_ms)
        if finished == "shutting_down" or (finished == "cancelled" and service.draining):
            return retry_later("the server is shutting down; it was not finished", "shutting_down", wait_ms)
        if finished == "cancelled":
            return ApiError(499, "it was cancelled", code="cancelled")
        if self.generation.mistake is not None:
            return ApiError(400, self.generation.mistake)
        return ApiError(500, f"the engine could not serve it: {finished}", code="engine_failure")

    async def _cancel_when_gone(self, request: Request) -> None:
        while (await request.receive())["type"] != "http.disconnect":
            pass
        self._service.engine.cancel(self.generation)
