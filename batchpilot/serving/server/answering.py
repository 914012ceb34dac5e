"""From a request that was understood to its answer: waits for the engine, gives up in time, notices who leaves."""

from __future__ import annotations

import asyncio
from collections import deque
from collections.abc import Sequence
from typing import NamedTuple

from fastapi import Request

from batchpilot.core.sampling import Sampling
from batchpilot.serving.server.bodies import MOST_CHOICES, CommonBody
from batchpilot.serving.server.chat_prompts import Prompt
from batchpilot.serving.server.completing import Completing
from batchpilot.serving.server.errors import ApiError, retry_later
from batchpilot.serving.server.formats import schema_of
from batchpilot.serving.server.generation import ENDED_WELL, Generation, Heard, Order, Outlet, Piece
from batchpilot.serving.server.structured import END_OF_BYTES, check_schema
from batchpilot.serving.server.text import StopStrings, Text
from batchpilot.serving.server.told_logprobs import TokenLogprob


class Delta(NamedTuple):
    """A token's worth of an answer.

    Attributes:
        choice: of which of its choices.
        text: what it adds, which may be nothing.
        finished: "length" or "stop" with the last one of the choice, else None.
        tokens: generated so far, of all choices.
        logprob: of the token, where log probabilities are told.
    """

    choice: int
    text: str
    finished: str | None
    tokens: int = 0
    logprob: TokenLogprob | None = None


def make_orders(service: Completing, body: CommonBody, prompts: Sequence[Prompt], default: int) -> list[Order]:
    """What the engine is asked, `n` times for each prompt, once it is known to be possible.

    Args:
        service: whose engine.
        body: what the client asked.
        prompts: each as token ids and images.
        default: most tokens to generate where the client does not say, as far as the longest request leaves room.

    Raises:
        ApiError: the server is going, or a request is empty or too long, or they are too many.
    """
    if service.draining:
        raise retry_later("the server is shutting down", "shutting_down", service.config.grace_s * 1000.0)
    answers = body.n or 1
    if not prompts or not all(prompt.tokens for prompt in prompts):
        raise ApiError(400, "the prompt is empty; it must have at least one token", param="prompt")
    if len(prompts) * answers > MOST_CHOICES:
        message = (
            f"{len(prompts)} prompts with n {answers} are {len(prompts) * answers} answers; at most {MOST_CHOICES}"
        )
        raise ApiError(400, message, param="n")
    schema = _schema(body)
    promise = service.config.promise(body.slo, body.ttft_ms, body.tpot_ms)
    arrived_s = service.clock()
    return [
        Order(
            prompt=prompt.tokens,
            max_tokens=_output_length(service.engine.longest, len(prompt.tokens), body, default),
            sampling=Sampling(
                temperature=1.0 if body.temperature is None else body.temperature,
                top_p=1.0 if body.top_p is None else body.top_p,
                seed=next(service.seeds) if body.seed is None else body.seed + place,
                stop_token_ids=_ends(service.text, body, schema),
                logprobs=body.wanted_logprobs,
                schema=schema,
            ),
            ttft_target_ms=promise.ttft_ms,
            tpot_target_ms=promise.tpot_ms,
            priority=body.priority_name,
            user=body.user,
            arrived_s=arrived_s,
            images=prompt.images,
        )
        for prompt in prompts
        for place in range(answers)
    ]


def _schema(body: CommonBody) -> str | None:
    """What the answers must obey, None for nothing."""
    schema = schema_of(body.response_format)
    if schema is not None:
        if body.ignore_eos:
            raise ApiError(400, "an answer in JSON ends where the JSON does; leave ignore_eos out", param="ignore_eos")
        try:
            check_schema(schema)
        except (ValueError, ImportError) as error:
            raise ApiError(400, str(error), param="response_format") from None
    return schema


def _ends(text: Text, body: CommonBody, schema: str | None) -> tuple[int, ...]:
    """Tokens that end an answer; where they mean bytes, that of no JSON does so."""
    ends = () if body.ignore_eos else text.stop_tokens
    return (END_OF_BYTES,) if schema is not None and not ends else ends


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
        generation: the request in the engine.
        text: from tokens to text.
        stops: strings before which it ends.
    """

    def __init__(self, generation: Generation, text: Text, stops: Sequence[str]) -> None:
        self.generation = generation
        self.finished: str | None = None
        self.satisfied = False
        self._text, self._stream, self._stops = text, text.stream(), StopStrings(stops)
        self._watches = bool(stops)
        self._said = 0

    def logprob(self, piece: Piece) -> TokenLogprob | None:
        """What is told of a piece's token beside its text; of one that ends the answer, nothing."""
        if piece.logprobs is None or piece.token is None or piece.finished == "stop":
            return None
        logprob, likeliest = piece.logprobs
        text, data = self._text.token(piece.token)
        others = tuple((*self._text.token(token), each) for token, each in likeliest)
        return TokenLogprob(text, data, logprob, others, self._said)

    def hear(self, piece: Piece) -> str:
        """The text that a piece adds. `satisfied` is set where a stop string ended it before the engine did."""
        if piece.finished is None and piece.token is not None and not self._watches:
            text = self._stream.add(piece.token)
            self._said += len(text)
            return text
        text = "" if piece.token is None or piece.finished == "stop" else self._stream.add(piece.token)
        text = self._stops.add(text)
        if piece.finished is not None and not self._stops.hit:
            text += self._stops.add(self._stream.rest()) + self._stops.rest()
        self.satisfied = self._stops.hit and piece.finished is None
        self.finished = "stop" if self._stops.hit else piece.finished
        self._said += len(text)
        return text


class Answer:
    """The answers to one request as they come. It is closed whatever happens, so that nothing stays in the engine.

    Args:
        service: whose engine.
        request: whose client may leave.
        orders: what is asked, one for each choice.
        body: how the answers end.

    Attributes:
        tokens: generated so far, of all choices.
    """

    def __init__(self, service: Completing, request: Request, orders: Sequence[Order], body: CommonBody) -> None:
        self.tokens = 0
        self._service = service
        self._timeout_s = body.timeout_s or service.config.timeout_s
        self._heard: deque[Heard | None] = deque()
        self._loop = asyncio.get_running_loop()
        self._wanted: asyncio.Future[None] | None = None
        # One timer for all of it: a timeout around each token would cost as much as the token's text.
        self._timer = self._loop.call_later(self._timeout_s, self._hear, None)
        self._choices = [
            _Choice(Generation(order, Outlet(self._hear, index)), service.text, body.stops)
            for index, order in enumerate(orders)
        ]
        self._unfinished = len(self._choices)
        self._error: ApiError | None = None
        for choice in self._choices:
            service.engine.submit(choice.generation)
        self._watcher = asyncio.create_task(self._cancel_when_gone(request))

    async def begin(self) -> None:
        """Wait until the engine has let every choice in and said its first token.

        Raises:
            ApiError: one was refused, failed, or took too long; none of them is answered.
        """
        looked_at, silent = 0, set(range(len(self._choices)))
        try:
            while silent:
                if looked_at == len(self._heard):
                    await self._more()
                index, _ = self._served(self._heard[looked_at])
                silent.discard(index)
                looked_at += 1
        except BaseException:
            self.close()
            raise

    async def deltas(self) -> list[Delta]:
        """What the answers add, those tokens together that have come since the last ones; nothing when all are over.

        Raises:
            ApiError: one failed, was cancelled, or took too long; what came before it has been told.
        """
        deltas: list[Delta] = []
        while self._unfinished and not deltas:
            if self._error is not None:
                raise self._error
            if not self._heard:
                await self._more()
            while self._heard and self._error is None:
                heard = self._heard.popleft()
                if heard is not None and self._choices[heard[0]].finished is not None:
                    continue
                try:
                    deltas.append(self._told(*self._served(heard)))
                except ApiError as unserved:
                    self._error = unserved
        return deltas

    def close(self) -> None:
        """The answer is over, one way or another: what is left of it is cancelled."""
        self._timer.cancel()
        self._watcher.cancel()
        self._cancel()

    def _hear(self, heard: Heard | None) -> None:
        """What the engine says next, None when the time is up."""
        self._heard.append(heard)
        if self._wanted is not None and not self._wanted.done():
            self._wanted.set_result(None)

    async def _more(self) -> None:
        """Wait until something is heard."""
        self._wanted = self._loop.create_future()
        await self._wanted

    def _served(self, heard: Heard | None) -> Heard:
        """What was heard, if it belongs to an answer."""
        if heard is None:
            message = f"no answer within {self._timeout_s:g} s; it was cancelled"
            raise ApiError(504, message, param="timeout_s", code="timeout")
        piece = heard[1]
        if piece.finished is not None and piece.finished not in ENDED_WELL:
            raise self._unserved(piece.finished, piece.mistake, piece.wait_ms)
        return heard

    def _told(self, index: int, piece: Piece) -> Delta:
        choice = self._choices[index]
        logprob, text = choice.logprob(piece), choice.hear(piece)
        self.tokens += piece.token is not None
        self._unfinished -= choice.finished is not None
        if choice.satisfied:
            self._service.engine.cancel(choice.generation, satisfied=True)
        return Delta(index, text, choice.finished, self.tokens, logprob)

    def _unserved(self, finished: str, mistake: str | None, wait_ms: float) -> ApiError:
        if finished == "refused_on_arrival":
            return retry_later(
                "too much is waiting already: max_queued_tokens or all places are full", finished, wait_ms
            )
        if finished == "refused_by_guard":
            return retry_later("it could not have been served within its time to first token", finished, wait_ms)
        if finished == "shutting_down" or (finished == "cancelled" and self._service.draining):
            return retry_later("the server is shutting down; it was not finished", "shutting_down", wait_ms)
        if finished == "cancelled":
            return ApiError(499, "it was cancelled", code="cancelled")
        if mistake is not None:
            return ApiError(400, mistake, param="prompt")
        return ApiError(500, f"the engine could not serve it: {finished}", code="engine_failure")

    def _cancel(self) -> None:
        for choice in self._choices:
            if not choice.generation.ended and not choice.generation.cancelled:
                self._service.engine.cancel(choice.generation)

    async def _cancel_when_gone(self, request: Request) -> None:
        while (await request.receive())["type"] != "http.disconnect":
            pass
        self._cancel()
