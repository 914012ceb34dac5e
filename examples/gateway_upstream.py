"""An OpenAI-compatible server that computes nothing: continuous batching whose steps take as long as a formula says.

    python examples/gateway_upstream.py --port 8000 --max-batch 256
    batchpilot gateway --upstream http://127.0.0.1:8000 --tuner guarded-adaptive --port 8001

It stands in for a real server where a gateway or a load test is tried out. One token is four bytes of prompt; each step
computes at most `--budget` tokens, prompts in chunks, and gives every request whose prompt is computed one token. Like
a server as shipped it has no bound on its queue.
"""

from __future__ import annotations

import argparse
import asyncio
import contextlib
import json
import time
from dataclasses import dataclass, field
from typing import Any

from batchpilot.serving.session.engine import step_ms

PARAMETERS = (20.0, 0.12, 0.005, 0.0, 1.0, 12.0, 0.35, 0.04, 0.0002)
"""Saturation parameters of the steps: a step of 32 decoding requests takes about 27 ms, a prompt token 0.1 ms."""


def slower(factor: float) -> tuple[float, ...]:
    """The parameters of an engine whose every step takes so many times as long."""
    p_max, k_b, k_s, *times = PARAMETERS
    w_0, w_1, *added = times
    return (p_max, k_b, k_s, w_0 * factor, w_1 * factor, *(factor * one for one in added))


@dataclass(eq=False)
class Request:
    """One request.

    Attributes:
        prompt: tokens of the prompt that are still to be computed.
        output: tokens that are still to be said.
        context: tokens computed.
        said: a True for each token, a False at the end.
    """

    prompt: int
    output: int
    context: int = 0
    said: asyncio.Queue[bool] = field(default_factory=asyncio.Queue)


class StepEngine:
    """Continuous batching on a clock.

    Args:
        parameters: nine saturation parameters.
        max_batch: most requests in a step.
        budget: most tokens in a step.
    """

    def __init__(self, parameters: tuple[float, ...] = PARAMETERS, max_batch: int = 256, budget: int = 2048) -> None:
        self.parameters, self.max_batch, self.budget = parameters, max_batch, budget
        self.waiting: list[Request] = []
        self.running: list[Request] = []
        self._work = asyncio.Event()

    def submit(self, request: Request) -> None:
        """A request comes."""
        self.waiting.append(request)
        self._work.set()

    def cancel(self, request: Request) -> None:
        """A request's client has left."""
        for requests in (self.waiting, self.running):
            if request in requests:
                requests.remove(request)

    async def run(self) -> None:
        """Step while there is work, for ever."""
        due = time.perf_counter()
        while True:
            if not (self.waiting or self.running):
                self._work.clear()
                await self._work.wait()
                due = time.perf_counter()
            while self.waiting and len(self.running) < self.max_batch:
                self.running.append(self.waiting.pop(0))
            plan, left = [], self.budget
            for request in self.running:
                tokens = min(request.prompt or 1, left)
                if tokens:
                    plan.append((request, tokens))
                    left -= tokens
            context = sum(request.context for request, _ in plan)
            due += step_ms(self.parameters, len(plan), self.budget - left, context) / 1000.0
            await asyncio.sleep(max(due - time.perf_counter(), 0.0))
            due = max(due, time.perf_counter() - 0.05)
            for request, tokens in plan:
                self._computed(request, tokens)

    def _computed(self, request: Request, tokens: int) -> None:
        request.context += tokens
        request.prompt = max(request.prompt - tokens, 0)
        if request.prompt or request not in self.running:
            return
        request.output -= 1
        request.said.put_nowait(True)
        if request.output == 0:
            self.running.remove(request)
            request.said.put_nowait(False)


class App:
    """The server, an ASGI application.

    Args:
        engine: computes nothing.
    """

    def __init__(self, engine: StepEngine) -> None:
        self.engine = engine

    async def __call__(self, scope: dict[str, Any], receive: Any, send: Any) -> None:
        """Answer."""
        if scope["type"] == "lifespan":
            await receive()
            steps = asyncio.ensure_future(self.engine.run())
            await send({"type": "lifespan.startup.complete"})
            await receive()
            steps.cancel()
            await send({"type": "lifespan.shutdown.complete"})
        elif scope["path"] in ("/v1/completions", "/v1/chat/completions"):
            await self._complete(scope, receive, send)
        elif scope["path"] == "/metrics":
            running, waiting = len(self.engine.running), len(self.engine.waiting)
            page = f"vllm:num_requests_running {running}\nvllm:num_requests_waiting {waiting}\n"
            await _whole(send, 200, page.encode(), b"text/plain")
        elif scope["path"] == "/health":
            await _whole(send, 200, b"{}")
        elif scope["path"] == "/v1/models":
            listed = {"object": "list", "data": [{"id": "steps", "object": "model"}]}
            await _whole(send, 200, json.dumps(listed).encode())
        else:
            await _whole(send, 404, b'{"error": {"message": "not found"}}')

    async def _complete(self, scope: dict[str, Any], receive: Any, send: Any) -> None:
        body, more = b"", True
        while more:
            message = await receive()
            body, more = body + message.get("body", b""), message.get("more_body", False)
        try:
            asked = json.loads(body)
            text = asked["prompt"] if "prompt" in asked else "".join(_said(part) for part in asked["messages"])
        except (ValueError, KeyError, TypeError):
            await _whole(send, 400, b'{"error": {"message": "neither prompt nor messages", "code": "bad_request"}}')
            return
        output = int(asked.get("max_tokens") or asked.get("max_completion_tokens") or 16)
        prompt = max(-(-len(text) // 4), 1)
        request = Request(prompt, output)
        usage = {"prompt_tokens": prompt, "completion_tokens": output, "total_tokens": prompt + output}
        self.engine.submit(request)
        speaking = asyncio.ensure_future(_speak(request, send, usage, "messages" in asked, bool(asked.get("stream"))))
        leaving = asyncio.ensure_future(_left(receive))
        await asyncio.wait({speaking, leaving}, return_when=asyncio.FIRST_COMPLETED)
        self.engine.cancel(request)
        for task in (speaking, leaving):
            task.cancel()
        with contextlib.suppress(asyncio.CancelledError):
            await speaking


def _said(message: dict[str, Any]) -> str:
    content = message["content"]
    return content if isinstance(content, str) else "".join(part.get("text", "") for part in content)


async def _speak(request: Request, send: Any, usage: dict[str, int], chat: bool, streams: bool) -> None:
    kind = "chat.completion.chunk" if chat else "text_completion"
    common = {"id": "steps-1", "object": kind, "created": 0, "model": "steps"}

    def choice(text: str, finish: str | None) -> dict[str, Any]:
        said = {"delta": {"content": text}} if chat else {"text": text}
        return {"index": 0, **said, "logprobs": None, "finish_reason": finish}

    if not streams:
        words = 0
        while await request.said.get():
            words += 1
        whole = choice(" hi" * words, "length")
        if chat:
            whole["message"] = {"role": "assistant", **whole.pop("delta")}
            common["object"] = "chat.completion"
        await _whole(send, 200, json.dumps({**common, "choices": [whole], "usage": usage}).encode())
        return
    headers = [(b"content-type", b"text/event-stream; charset=utf-8"), (b"x-served-by", b"steps")]
    await send({"type": "http.response.start", "status": 200, "headers": headers})
    while await request.said.get():
        await _event(send, {**common, "choices": [choice(" hi", None)]})
    await _event(send, {**common, "choices": [choice("", "length")], "usage": usage})
    await send({"type": "http.response.body", "body": b"data: [DONE]\n\n"})


async def _event(send: Any, data: dict[str, Any]) -> None:
    body = b"data: " + json.dumps(data).encode() + b"\n\n"
    await send({"type": "http.response.body", "body": body, "more_body": True})


async def _whole(send: Any, status: int, body: bytes, kind: bytes = b"application/json") -> None:
    headers = [(b"content-type", kind), (b"content-length", str(len(body)).encode())]
    await send({"type": "http.response.start", "status": status, "headers": headers})
    await send({"type": "http.response.body", "body": body})


async def _left(receive: Any) -> None:
    while (await receive())["type"] != "http.disconnect":
        pass


def main() -> None:
    """Serve until interrupted."""
    import uvicorn

    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--port", type=int, default=8000)
    parser.add_argument("--max-batch", type=int, default=256)
    parser.add_argument("--budget", type=int, default=2048)
    parser.add_argument("--slowdown", type=float, default=1.0, help="multiplies every step's time")
    asked = parser.parse_args()
    engine = StepEngine(slower(asked.slowdown), asked.max_batch, asked.budget)
    uvicorn.run(App(engine), host="127.0.0.1", port=asked.port, log_level="warning", access_log=False)


if __name__ == "__main__":
    main()
