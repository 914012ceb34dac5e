"""Completions of an OpenAI-compatible server, timed as their users would feel them. Times in ms."""

from __future__ import annotations

import asyncio
import json
import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

from batchpilot.core.files import json_text
from batchpilot.core.slo import SLO_CLASSES
from batchpilot.serving.answers import AnswerReader
from batchpilot.serving.load.answers import Answered
from batchpilot.serving.load.flight import Asked
from batchpilot.serving.load.http import Address, HttpClient
from batchpilot.serving.load.identity import asked_of
from batchpilot.serving.load.responses import HttpError
from batchpilot.serving.outcomes import FAILED, SERVED, refusal, shown

OWN = "batchpilot"
"""Who owns the models of `batchpilot serve`, which takes promises and priorities with a request."""

ASKING_TIMEOUT_S = 20.0
"""How long a server may take to say what it serves."""

_LONGEST_PROMISE_MS = 1e9
_PRIORITIES = ("high", "normal", "low")
_KEPT_BYTES = 4096


@dataclass(frozen=True, slots=True)
class Dialect:
    """How completions are asked for.

    Attributes:
        chat: whether prompts are sent as conversations.
        body: fields that are added to each request; None leaves one out that is sent otherwise.
        own: whether the server is `batchpilot serve`.
    """

    chat: bool = False
    body: Mapping[str, Any] = field(default_factory=dict)
    own: bool = False

    @property
    def path(self) -> str:
        """The route."""
        return "/v1/chat/completions" if self.chat else "/v1/completions"

    def most_tokens(self, asked: Asked) -> int | None:
        """Most output tokens that a request allows, where `body` does not take the bound away.

        Args:
            asked: what is wanted.
        """
        told = {"max_tokens": asked.output_tokens, **self.body}
        counts = (told.get(name) for name in ("max_completion_tokens", "max_tokens"))
        return next((count for count in counts if type(count) is int and count >= 0), None)

    def request(self, model: str, asked: Asked, *, stream: bool = True) -> bytes:
        """The body of a request.

        Args:
            model: as the server names it.
            asked: what is wanted.
            stream: whether the answer is wanted token by token.
        """
        said: Any = _parts(asked.prompt, asked.pictures) if asked.pictures else asked.prompt
        body: dict[str, Any] = {"model": model}
        body |= {"messages": [{"role": "user", "content": said}]} if self.chat else {"prompt": said}
        body |= {"max_tokens": asked.output_tokens, "temperature": 0.0, "ignore_eos": True, "stream": stream}
        if stream:
            body["stream_options"] = {"include_usage": True}
        if asked.user is not None:
            body["user"] = asked.user
        if self.own:
            body |= {"priority": _PRIORITIES[asked.priority]}
            targets = {"ttft_ms": asked.slo.ttft_ms, "tpot_ms": asked.slo.tpot_ms}
            body |= {name: min(value, _LONGEST_PROMISE_MS) for name, value in targets.items()}
        body |= self.body
        return json_text({name: value for name, value in body.items() if value is not None}).encode()


class CompletionClient:
    """Sends completion requests; one event loop, as many connections as requests.

    Args:
        address: the server's base address.
        now_ms: the clock.
        api_key: sent as a bearer token, None for none.
        dialect: how completions are asked for; `find_model` adds what the server says of itself.
        keep_times: whether answers tell when each part of them came.

    Attributes:
        model: what requests name.
        dialect: in force.
        listed: what the server says of the model in its list.
    """

    def __init__(
        self,
        address: Address,
        now_ms: Callable[[], float],
        *,
        api_key: str | None = None,
        dialect: Dialect | None = None,
        keep_times: bool = False,
    ) -> None:
        self.model = ""
        self.listed: dict[str, Any] = {}
        self.dialect = dialect or Dialect()
        self._address, self._now_ms, self._keep_times = address, now_ms, keep_times
        self._http = HttpClient(address, {} if api_key is None else {"authorization": f"Bearer {api_key}"})

    async def complete(self, asked: Asked, on_first: Callable[[], None] = lambda: None) -> Answered:
        """Send one request and read its answer to the end.

        Args:
            asked: what is wanted; the server is asked not to stop before.
            on_first: told when its first token comes.
        """
        listening = _Listening(self._now_ms, self.dialect.most_tokens(asked), on_first, keep_times=self._keep_times)
        try:
            body = self.dialect.request(self.model, asked)
            await self._http.exchange("POST", self.dialect.path, listening, body, _headers(asked))
        except (HttpError, OSError) as error:
            return listening.broken(str(error) or type(error).__name__)
        return listening.answered()

    async def find_model(self, wanted: str | None) -> None:
        """Ask what the server serves.

        Args:
            wanted: what requests shall name; None for the first of the server's models.

        Raises:
            ValueError: it does not answer, or not as OpenAI's API does; not raised where the name is given.
        """
        try:
            models = json.loads(await self._whole("GET", "/v1/models"))["data"]
            first = dict(next((one for one in models if one["id"] == wanted), models[0]))
            found = str(first["id"])
        except (HttpError, OSError, ValueError, LookupError, TypeError) as error:
            if wanted is None:
                told = f"{type(error).__name__}: {error}" if not isinstance(error, HttpError) else str(error)
                raise ValueError(
                    f"{self._address}/v1/models names no model ({shown(told)}); is it the server?"
                ) from error
        else:
            self.listed = first
            self.dialect = Dialect(self.dialect.chat, self.dialect.body, first.get("owned_by") == OWN)
            wanted = wanted or found
        self.model = wanted

    async def bytes_per_token(self, sample: str) -> float:
        """How many bytes of a text the server's tokenizer takes for one token; NaN where it does not say.

        Args:
            sample: text of the kind that will be sent.
        """
        try:
            body = self.dialect.request(self.model, Asked(sample, 1), stream=False)
            answer = json.loads(await self._whole("POST", self.dialect.path, body))
            tokens = int(answer["usage"]["prompt_tokens"])
        except (HttpError, OSError, ValueError, LookupError, TypeError):
            return math.nan
        return len(sample.encode()) / tokens if tokens > 0 else math.nan

    async def identity(self) -> dict[str, Any]:
        """What the server says of itself, as plain values; empty where it says nothing."""
        return await asked_of(lambda path: self._whole("GET", path), self.listed)

    def close(self) -> None:
        """Close every connection that is not in use."""
        self._http.close()

    async def _whole(self, method: str, path: str, body: bytes = b"") -> str:
        collected = _Collecting()
        try:
            async with asyncio.timeout(ASKING_TIMEOUT_S):
                await self._http.exchange(method, path, collected, body)
        except TimeoutError:
            raise HttpError(f"no answer within {ASKING_TIMEOUT_S:g} s") from None
        told = collected.data.decode(errors="replace")
        if collected.status != 200:
            raise HttpError(f"{collected.status}: {told}")
        return told


class _Collecting:
    """Keeps a response."""

    def __init__(self) -> None:
        self.status, self.data = 0, b""

    def head(self, status: int, headers: dict[str, str]) -> None:
        self.status = status

    def body(self, data: bytes) -> None:
        self.data += data


class _Listening:
    """Hears an answer and notes when its tokens come."""

    def __init__(
        self, now_ms: Callable[[], float], most: int | None, on_first: Callable[[], None], *, keep_times: bool
    ) -> None:
        self._now_ms, self._most, self._on_first = now_ms, most, on_first
        self._heard_ms: list[float] | None = [] if keep_times else None
        self._status, self._kind, self._encoding = 0, "", ""
        self._reader = AnswerReader(most=most)
        self._streams = True
        self._first_ms = self._last_ms = math.nan
        self._kept = b""

    def head(self, status: int, headers: dict[str, str]) -> None:
        self._status = status
        self._kind = headers.get("content-type", "").partition(";")[0].strip().lower()
        self._encoding = headers.get("content-encoding", "identity")
        self._streams = self._kind != "application/json"
        self._reader = AnswerReader(self._streams, most=self._most)
        if status != 200 and headers.get("location"):
            self._kept = f"to {headers['location']} ".encode()

    def body(self, data: bytes) -> None:
        if len(self._kept) < _KEPT_BYTES and (self._status != 200 or not self._reader.tokens):
            self._kept += data[:_KEPT_BYTES]
        if self._status == 200 and self._reader.hear(data):
            self._heard()

    def answered(self) -> Answered:
        """The response is complete."""
        reader = self._reader
        told = self._kept.decode(errors="replace")
        if self._status != 200:
            return self._unserved(refusal(self._status, told), f"{self._status}: {told}")
        if reader.end():
            self._heard()
        reason, detail = reader.judged()
        if reason == SERVED and not reader.events and self._most != 0:
            return self._unserved(FAILED, "the answer is empty")
        return self._served() if reason == SERVED else self._unserved(reason, self._strange(detail, told))

    def broken(self, error: str) -> Answered:
        """The response ended before its time."""
        if self._status not in (0, 200):
            return self._unserved(refusal(self._status, ""), f"{self._status}, then: {error}")
        self._reader.end()
        served = self._streams and self._reader.events > 0 and self._reader.judged()[0] == SERVED
        return self._served() if served else self._unserved("failed", error)

    def _heard(self) -> None:
        self._last_ms = self._now_ms()
        if self._heard_ms is not None:
            self._heard_ms.append(self._last_ms)
        if math.isnan(self._first_ms):
            self._first_ms = self._last_ms
            self._on_first()

    def _strange(self, detail: str, told: str) -> str:
        if self._encoding != "identity":
            return f"the answer is compressed ({self._encoding}) though identity was asked for"
        return detail or f"the answer is no completion but {self._kind or 'of no type'}: {told}"

    @property
    def _tokens(self) -> int:
        """Output tokens as the reader has them; one whole text that nobody counted, ended by its length, has all."""
        reader = self._reader
        all_came = not (self._streams or reader.counted) and reader.finish_reason == "length" and reader.choices == 1
        return self._most if all_came and self._most is not None else reader.tokens

    def _served(self) -> Answered:
        if math.isnan(self._last_ms):  # no token was wanted: the answer itself is what came first
            self._heard()
        return self._as(SERVED, self._last_ms)

    def _unserved(self, reason: str, detail: str) -> Answered:
        return self._as(reason, self._now_ms(), shown(detail))

    def _as(self, reason: str, end_ms: float, detail: str = "") -> Answered:
        reader = self._reader
        return Answered(
            reason,
            self._status,
            self._first_ms,
            end_ms,
            self._tokens,
            detail,
            reader.counted,
            self._streams,
            reader.prompt_tokens,
            reader.choices,
            tuple(self._heard_ms or ()),
        )


def _parts(text: str, pictures: Sequence[tuple[int, str]]) -> list[dict[str, Any]]:
    """A message of text around pictures, as OpenAI's API takes it."""
    parts: list[dict[str, Any]] = []
    done = 0
    for before, picture in pictures:
        parts += [{"type": "text", "text": text[done:before]}, {"type": "image_url", "image_url": {"url": picture}}]
        done = before
    return [part for part in (*parts, {"type": "text", "text": text[done:]}) if part.get("text") != ""]


def _headers(asked: Asked) -> dict[str, str]:
    """What gateways read; a class is named only where its promise is the one that is judged by."""
    named = SLO_CLASSES.get(asked.slo.name) == asked.slo
    slo = {"x-slo-class": asked.slo.name} if named else {}
    return slo | ({} if asked.priority == 1 else {"x-priority": _PRIORITIES[asked.priority]})
