"""From a request that was understood to its answer: waits for the engine, gives up in time, notices who leaves."""

from __future__ import annotations

import asyncio
from collections import deque
from collections.abc import AsyncIterator, Sequence
from typing import NamedTuple

from fastapi import Request

from batchpilot.engines.torch.sampling import Sampling
from batchpilot.serving.server.bodies import MOST_CHOICES, CommonBody
from batchpilot.serving.server.errors import ApiError, retry_later
from batchpilot.serving.server.generation import ENDED_WELL, Generation, Heard, Order, Outlet, Piece
from batchpilot.serving.server.service import Service
from batchpilot.serving.server.text import StopStrings, Text


class Delta(NamedTuple):
    """A token's worth of an answer.

    Attributes:
        choice: of which of its choices.
        text: what it adds, which may be nothing.
        finished: "length" or "stop" with the last one of the choice, else None.
    """

    choice: int
    text: str
    finished: str | None


def make_orders(service: Service, body: CommonBody, prompts: Sequence[list[int]], default: int) -> list[Order]:
    """What the engine is asked, `n` times for each prompt, once it is known to be possible.

    Args:
        service: whose engine.
        body: what the client asked.
        prompts: token ids of each.
        default: most tokens to generate where the client does not say, as far as the longest request leaves room.

    Raises:
        ApiError: the server is going, or a request is empty or too long, or they are too many.
    """
    if service.draining:
        raise retry_later("the server is shutting down", "shutting_down", service.config.grace_s * 1000.0)
    answers = body.n or 1
    if not prompts or not all(prompts):
        raise ApiError(400, "the prompt is empty; it must have at least one token", param="prompt")
    if len(prompts) * answers > MOST_CHOICES:
        message = (
            f"{len(prompts)} prompts with n {answers} are {len(prompts) * answers} answers; at most {MOST_CHOICES}"
        )
        raise ApiError(400, message, param="n")
    promise = service.config.promise(body.slo, body.ttft_ms, body.tpot_ms)
    arrived_s = service.clock()
    return [
        Order(
            prompt=prompt,
            max_tokens=_output_length(service.engine.longest, len(prompt), body, default),
            sampling=Sampling(
                temperature=1.0 if body.temperature is None else body.temperature,
                top_p=1.0 if body.top_p is None else body.top_p,
                seed=next(service.seeds) if body.seed is None else body.seed + place,
                stop_token_ids=() if body.ignore_eos else service.text.stop_tokens,
            ),
            ttft_target_ms=promise.ttft_ms,
            tpot_target_ms=promise.tpot_ms,
            priority=body.priority_name,
            user=body.user,
            arrived_s=arrived_s,
        )
        for prompt in prompts
        for place in range(answers)
    ]


def _output_length(longest: int, prompt: int, body: CommonBody, default: int) -> int:
    """Most tokens that a prompt of so many tokens may be answered with."""
    max_tokens = body.max_completion_tokens or body.max_tokens or max(min(default, longest - prompt), 1)
    if prompt + max_tokens > longest:
        message = (
            f"{prompt} prompt tokens and max_tokens {max_tokens} are {prompt + max_tokens} tokens; "
            f"the longest request is {longest}"
        )
        raise ApiError(400, message, param="max_tokens", code="context_length_exceeded")
    if body.min_tokens and not (body.ignore_eos and body.min_tokens <= max_tokens):
        message = f"min_tokens is {body.min_tokens}; it is taken with ignore_eos, up to max_tokens {max_tokens}"
        raise ApiError(400, message, param="min_tokens")
    return max_tokens


class _Choice:
    """One answer of a request as its tokens come.

    Args:
        index: its place.
        generation: the request in the engine.
        text: from tokens to text.
        stops: strings before which it ends.
    """

    def __init__(self, index: int, generation: Generation, text: Text, stops: Sequence[str]) -> None:
        self.generation = generation
        self.tokens = 0
        self.finished: str | None = None
        self.satisfied = False
        self._index = index
        self._stream, self._stops = text.stream(), StopStrings(stops)

    def hear(self, piece: Piece) -> Delta:
        """What a piece adds. `satisfied` is set where a stop string ended it before the engine did."""
        self.tokens += piece.token is not None
        text = "" if piece.token is None or piece.finished == "stop" else self._stream.add(piece.token)
        text = self._stops.add(text)
        if piece.finished is not None and not self._stops.hit:
            text += self._stops.add(self._stream.rest()) + self._stops.rest()
        self.satisfied = self._stops.hit and piece.finished is None
        self.finished = "stop" if self._stops.hit else piece.finished
        return Delta(self._index, text, self.finished)


class Answer:
    """The answers to one request as they come. It is closed whatever happens, so that nothing stays in the engine.

    Args:
        service: whose engine.
        request: whose client may leave.
        orders: what is asked, one for each choice.
        body: how the answers end.
    """

    def __init__(self, service: Service, request: Request, orders: Sequence[Order], body: CommonBody) -> None:
        self._service = service
        self._timeout_s = body.timeout_s or service.config.timeout_s
        self._heard: asyncio.Queue[Heard | None] = asyncio.Queue()
        # One timer for all of it: a timeout around each token would cost as much as the token's text.
        self._timer = asyncio.get_running_loop().call_later(self._timeout_s, self._heard.put_nowait, None)
        self._early: deque[Heard] = deque()
        self._choices = [
            _Choice(index, Generation(order, Outlet(self._heard.put_nowait, index)), service.text, body.stops)
            for index, order in enumerate(orders)
        ]
        for choice in self._choices:
            service.engine.submit(choice.generation)
        self._watcher = asyncio.create_task(self._cancel_when_gone(request))

    @property
    def tokens(self) -> int:
        """Generated so far, of all choices."""
        return sum(choice.tokens for choice in self._choices)

    async def begin(self) -> None:
        """Wait until the engine has let every choice in and said its first token.

        Raises:
            ApiError: one was refused, failed, or took too long; none of them is answered.
        """
        silent = set(range(len(self._choices)))
        try:
            while silent:
                heard = await self._next()
                self._early.append(heard)
                silent.discard(heard[0])
        except BaseException:
            self.close()
            raise

    async def deltas(self) -> AsyncIterator[Delta]:
        """The answers, token by token, as they come.

        Raises:
            ApiError: one failed, was cancelled, or took too long.
        """
        unfinished = len(self._choices)
        while unfinished:
            index, piece = self._early.popleft() if self._early else await self._next()
            choice = self._choices[index]
            if choice.finished is not None:
                continue
            delta = choice.hear(piece)
            if choice.satisfied:
                self._service.engine.cancel(choice.generation, satisfied=True)
            unfinished -= delta.finished is not None
            yield delta

    def close(self) -> None:
        """The answer is over, one way or another: what is left of it is cancelled."""
        self._timer.cancel()
        self._watcher.cancel()
        self._cancel()

    async def _next(self) -> Heard:
        """What the engine says next of a choice that has not finished."""
        while True:
            heard = await self._heard.get()
            if heard is None:
                message = f"no answer within {self._timeout_s:g} s; it was cancelled"
                raise ApiError(504, message, param="timeout_s", code="timeout")
            index, piece = heard
            choice = self._choices[index]
            if choice.finished is not None:
                continue
            if piece.finished is not None and piece.finished not in ENDED_WELL:
                raise self._unserved(choice.generation, piece.finished)
            return index, piece

    def _unserved(self, generation: Generation, finished: str) -> ApiError:
        service = self._service
        wait_ms = service.session.predicted_ttft_ms(len(generation.order.prompt))
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
        if generation.mistake is not None:
            return ApiError(400, generation.mistake, param="prompt")
        return ApiError(500, f"the engine could not serve it: {finished}", code="engine_failure")

    def _cancel(self) -> None:
        for choice in self._choices:
            if not choice.generation.ended and not choice.generation.cancelled:
                self._service.engine.cancel(choice.generation)

    async def _cancel_when_gone(self, request: Request) -> None:
        while (await request.receive())["type"] != "http.disconnect":
            pass
        self._cancel()
