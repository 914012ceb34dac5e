"""One request to an OpenAI-compatible server, timed as its user would feel it. Times in ms."""

from __future__ import annotations

import json
import math
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import httpx

from batchpilot.serving.gateway.completions import AnswerReader

GUARD = "refused_by_guard"
_REFUSALS = (429, 503)


@dataclass(frozen=True, slots=True)
class Answered:
    """What became of one request.

    Attributes:
        reason: `length` for a complete answer, `refused_on_arrival`, `refused_by_guard` or `failed`.
        status: HTTP status, 0 without one.
        first_ms: time of the first token, NaN without one.
        end_ms: time of the last token of a complete answer, else of the end.
        output_tokens: how many came.
        detail: what the server said of a refusal or failure.
    """

    reason: str
    status: int
    first_ms: float
    end_ms: float
    output_tokens: int
    detail: str = ""


class CompletionClient:
    """Sends streaming completion requests; one event loop, as many connections as requests.

    Args:
        url: the server's base address.
        now_ms: the clock.
        api_key: sent as a bearer token, None for none.
        silence_timeout_s: how long a server may say nothing.

    Attributes:
        model: what requests name.
    """

    def __init__(
        self,
        url: str,
        now_ms: Callable[[], float],
        *,
        api_key: str | None = None,
        silence_timeout_s: float = 600.0,
    ) -> None:
        self.model = ""
        self._url, self._now_ms = url.rstrip("/"), now_ms
        limits = httpx.Limits(max_connections=None, max_keepalive_connections=None)
        headers = {} if api_key is None else {"authorization": f"Bearer {api_key}"}
        self._client = httpx.AsyncClient(limits=limits, timeout=silence_timeout_s, headers=headers, trust_env=False)

    async def complete(self, prompt: str, output_tokens: int, headers: dict[str, str] | None = None) -> Answered:
        """Send one request and read its answer to the end.

        Args:
            prompt: its text.
            output_tokens: how many to ask for; the server is asked not to stop before.
            headers: besides the usual.
        """
        body = self._body(prompt, output_tokens, stream=True)
        reader = AnswerReader(streams=True)
        first_ms, last_ms, status = math.nan, math.nan, 0
        try:
            async with self._client.stream("POST", f"{self._url}/v1/completions", json=body, headers=headers) as answer:
                status = answer.status_code
                if status != 200:
                    told = (await answer.aread()).decode(errors="replace")
                    return self._unserved(status, told)
                async for piece in answer.aiter_raw():
                    if reader.hear(piece) > 0:
                        last_ms = self._now_ms()
                        first_ms = last_ms if math.isnan(first_ms) else first_ms
        except httpx.HTTPError as error:
            detail = f"{type(error).__name__}: {error}"
            return Answered("failed", status, first_ms, self._now_ms(), reader.tokens, detail)
        if reader.ended and reader.error is None:
            return Answered("length", status, first_ms, last_ms, reader.tokens)
        detail = reader.error or "the stream ended without [DONE]"
        return Answered("failed", status, first_ms, self._now_ms(), reader.tokens, detail)

    async def first_model(self) -> str:
        """The first model that the server says it serves.

        Raises:
            ValueError: it does not answer, or not as OpenAI's API does.
        """
        try:
            answer = await self._client.get(f"{self._url}/v1/models")
            return str(answer.json()["data"][0]["id"])
        except (httpx.HTTPError, ValueError, LookupError, TypeError) as error:
            raise ValueError(f"{self._url}/v1/models names no model ({type(error).__name__}: {error})") from error

    async def bytes_per_token(self, sample: str) -> float:
        """How many bytes of a text the server's tokenizer takes for one token; NaN where it does not say.

        Args:
            sample: text of the kind that will be sent.
        """
        try:
            body = self._body(sample, 1, stream=False)
            answer = await self._client.post(f"{self._url}/v1/completions", json=body)
            tokens = int(answer.json()["usage"]["prompt_tokens"])
        except (httpx.HTTPError, ValueError, KeyError, TypeError):
            return math.nan
        return len(sample.encode()) / tokens if tokens > 0 else math.nan

    async def close(self) -> None:
        """Close every connection."""
        await self._client.aclose()

    def _body(self, prompt: str, output_tokens: int, *, stream: bool) -> dict[str, Any]:
        body: dict[str, Any] = {"model": self.model, "prompt": prompt, "max_tokens": output_tokens, "temperature": 0.0}
        body |= {"stream": stream, "ignore_eos": True}
        return body | ({"stream_options": {"include_usage": True}} if stream else {})

    def _unserved(self, status: int, told: str) -> Answered:
        reason = "failed"
        if status in _REFUSALS:
            reason = GUARD if GUARD in told else "refused_on_arrival"
            try:
                code = json.loads(told)["error"]["code"]
            except (ValueError, KeyError, TypeError):
                code = None
            reason = "failed" if isinstance(code, str) and code.startswith("upstream_") else reason
        return Answered(reason, status, math.nan, self._now_ms(), 0, f"{status}: {told[:300]}")
