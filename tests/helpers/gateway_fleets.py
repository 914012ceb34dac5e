"""Gateways before several upstreams, upstreams as processes that can be killed, and clients that tell what they saw."""

import asyncio
import json
import os
import signal
import socket
import subprocess
import sys
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass

import httpx
from gateway_scripts import speaking
from gateway_servers import EXAMPLE, serving, wait_until

from batchpilot import Limits
from batchpilot.baselines import StaticTuner
from batchpilot.serving.gateway import FleetSettings, Gateway, GatewaySettings, UpstreamSpec
from batchpilot.serving.session.session import TunerSession


def session(most_queued=None):
    return TunerSession(StaticTuner(Limits(64, max_queued_tokens=most_queued)), window_ms=50.0)


@contextmanager
def before_all(specs, *, poll_s=0, most_queued=None, rate_limit=None, own_engines=False, **fleet):
    """A gateway before upstreams given by address or spec; its address and itself."""
    told = tuple(spec if isinstance(spec, UpstreamSpec) else UpstreamSpec(spec) for spec in specs)
    settings = GatewaySettings(told[0].url, poll_s=poll_s, rate_limit=rate_limit)
    several = FleetSettings(told, **{"health_s": 0.0, **fleet})

    def another():
        return session(most_queued)

    app = Gateway(another(), settings, another if own_engines else None, several, another)
    with serving(app) as address:
        yield address, app


@contextmanager
def before_scripts(*scripts, specs=(), **fleet):
    """The same before servers that speak as scripts say; `specs` holds what else is told of each."""
    with ExitStack() as stack:
        urls = [stack.enter_context(speaking(script)) for script in scripts]
        told = [UpstreamSpec(url, **more) for url, more in zip(urls, specs or [{}] * len(urls), strict=True)]
        address, app = stack.enter_context(before_all(told, **fleet))
        yield address, app, urls


class ServerProcess:
    """The example's upstream in a process of its own, on a port that it keeps."""

    def __init__(self, *options):
        with socket.socket() as free:
            free.bind(("127.0.0.1", 0))
            self.port = free.getsockname()[1]
        self.url = f"http://127.0.0.1:{self.port}"
        self._options = options
        self.start()

    def start(self):
        """Start, and wait until it answers."""
        command = [sys.executable, str(EXAMPLE), "--port", str(self.port), *self._options]
        self._process = subprocess.Popen(command, env={**os.environ, "OMP_NUM_THREADS": "1"})
        wait_until(self._answers, 60)

    def kill(self):
        """As when it runs out of memory."""
        self._process.kill()
        self._process.wait(10)

    def hang(self):
        """It stands still, its connections open."""
        self._process.send_signal(signal.SIGSTOP)

    def _answers(self):
        assert self._process.poll() is None, "the server ended"
        try:
            return httpx.get(f"{self.url}/v1/models", trust_env=False, timeout=1).status_code == 200
        except httpx.HTTPError:
            return False


@contextmanager
def processes(count, *options):
    """So many of them."""
    started = []
    try:
        for _ in range(count):
            started.append(ServerProcess(*options))
        yield started
    finally:
        for server in started:
            server.kill()


@dataclass
class Seen:
    """What a client saw of one request."""

    status: int = 0
    tokens: int = 0
    complete: bool = False
    upstream: str = ""


async def stream(client, address, tokens, prompt="a prompt"):
    """One streaming completion, watched."""
    seen = Seen()
    asked = {"model": "steps", "prompt": prompt, "max_tokens": tokens, "stream": True}
    try:
        async with client.stream("POST", f"{address}/v1/completions", json=asked) as answer:
            seen.status = answer.status_code
            seen.upstream = answer.headers.get("x-batchpilot-upstream", "")
            async for line in answer.aiter_lines():
                if line == "data: [DONE]":
                    seen.complete = True
                elif line.startswith("data: ") and '"text": " hi"' in line:
                    seen.tokens += 1
    except httpx.HTTPError:
        pass
    return seen


async def watched(address, requests, gap_s, tokens, happens=()):
    """Requests one after the other, so many s apart, while things happen in threads at their time: (s, what)."""
    limits = httpx.Limits(max_connections=None)
    async with httpx.AsyncClient(timeout=60, limits=limits, trust_env=False) as client:

        async def later(after_s, work):
            await asyncio.sleep(after_s)
            return await asyncio.to_thread(work)

        async def one(number):
            await asyncio.sleep(number * gap_s)
            return await stream(client, address, tokens, f"prompt {number} of some length")

        seen = asyncio.gather(*(one(number) for number in range(requests)))
        await asyncio.gather(*(later(*event) for event in happens))
        return await seen


def upstreams(address):
    """Of each upstream its status, in order."""
    return list(gateway_status(address)["upstreams"].values())


def gateway_status(address):
    return json.loads(httpx.get(f"{address}/gateway/status", trust_env=False).text)


def outcomes(gateway, version):
    """How a version's requests ended; the last is counted a moment after its client has everything."""
    return gateway_status(gateway)["variants"][version]["ended"]
