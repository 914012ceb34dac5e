"""A server and a client of streams at a stated pace, as cheap as Python allows: what stands between them shows.

    python benchmarks/paced_streams.py --port 8000

Every event carries the time at which it was sent, by the clock that all processes of a machine share, so a client knows
how long each took. All streams of one rate speak in the same instant, as the requests of a step of continuous batching
do, unless their requests name another `step`. Requests are POSTs whose JSON body names `max_tokens`, `rate` (tokens a
second) and `step`.
"""

from __future__ import annotations

import argparse
import asyncio
import json
import re
import time
from collections.abc import Callable
from contextlib import suppress
from dataclasses import dataclass, field
from urllib.parse import urlsplit

import numpy as np

HEAD = b"HTTP/1.1 200 OK\r\ncontent-type: text/event-stream; charset=utf-8\r\ntransfer-encoding: chunked\r\n\r\n"
EVENT = (
    b'data: {"id":"cmpl-0123456789abcdef","object":"text_completion","created":1700000000,"model":"paced","choices":'
    b'[{"index":0,"text":" hi","logprobs":null,"finish_reason":null,"stop_reason":null}],"received":%d,"sent":%d}\n\n'
)
"""About as long as one of vLLM's."""

TIMES = re.compile(rb'"received":(\d+),"sent":(\d+)\}')
END = b"0\r\n\r\n"
LENGTH = re.compile(rb"content-length: *(\d+)", re.IGNORECASE)
PROMPT = "How long does a gateway take? " * 40


def chunk(data: bytes) -> bytes:
    """A piece of a chunked body."""
    return b"%x\r\n%s\r\n" % (len(data), data)


class Pace:
    """Lets streams of one name and rate speak in the same instant."""

    def __init__(self) -> None:
        self._streams: dict[tuple[str, float], dict[Connection, None]] = {}

    def join(self, connection: Connection, step: str, rate: float) -> None:
        """A stream speaks from the next instant on."""
        if (step, rate) not in self._streams:
            self._streams[step, rate] = {}
            self._later(step, rate, asyncio.get_running_loop().time())
        self._streams[step, rate][connection] = None

    def leave(self, connection: Connection) -> None:
        """A stream has ended."""
        for streams in self._streams.values():
            streams.pop(connection, None)

    def _later(self, step: str, rate: float, spoken_s: float) -> None:
        due_s = spoken_s + 1.0 / rate
        asyncio.get_running_loop().call_at(due_s, self._speak, step, rate, due_s)

    def _speak(self, step: str, rate: float, due_s: float) -> None:
        streams = self._streams[step, rate]
        for connection in list(streams):
            connection.speak()
        if streams:
            self._later(step, rate, due_s)
        else:
            del self._streams[step, rate]


class Connection(asyncio.Protocol):
    """Answers one request after another."""

    def __init__(self, pace: Pace) -> None:
        self._pace = pace
        self._unread = b""
        self._left = self._received = 0

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        """It is open."""
        self._transport = transport

    def connection_lost(self, error: Exception | None) -> None:
        """It is gone."""
        self._pace.leave(self)

    def data_received(self, data: bytes) -> None:
        """More has come."""
        self._unread += data
        head, blank, body = self._unread.partition(b"\r\n\r\n")
        length = LENGTH.search(head)
        if not blank or len(body) < (int(length.group(1)) if length else 0):
            return
        self._received, self._unread = time.monotonic_ns(), b""
        if not head.startswith(b"POST"):
            self._transport.write(b"HTTP/1.1 404 Not Found\r\ncontent-length: 0\r\n\r\n")
            return
        asked = json.loads(body)
        self._left = asked["max_tokens"]
        self._transport.write(HEAD)
        self._pace.join(self, asked["step"], float(asked["rate"]))

    def speak(self) -> None:
        """One token, the last one with the end."""
        self._left -= 1
        said = chunk(EVENT % (self._received, time.monotonic_ns()))
        if self._left == 0:
            self._pace.leave(self)
            said += chunk(b"data: [DONE]\n\n") + END
        self._transport.write(said)


@dataclass(frozen=True)
class Load:
    """What is asked of a server.

    Attributes:
        together: streams at once.
        rate: tokens a second of each.
        in_step: whether they speak in the same instant.
        seconds: for so long.
    """

    together: int
    rate: float
    in_step: bool
    seconds: float

    def request(self, host: str, number: int) -> bytes:
        """One of its requests: a stream of a second or so."""
        asked = {
            "model": "paced",
            "prompt": PROMPT,
            "stream": True,
            "max_tokens": max(round(self.rate), 2),
            "rate": self.rate,
            "step": "all" if self.in_step else f"{number}",
        }
        body = json.dumps(asked).encode()
        head = f"POST /v1/completions HTTP/1.1\r\nhost: {host}\r\ncontent-type: application/json\r\n"
        return f"{head}content-length: {len(body)}\r\n\r\n".encode() + body


@dataclass
class Times:
    """What a client saw.

    Attributes:
        first: ns on the way of each request and of its first token, the server's own time left out.
        tokens: ns on the way of each token.
        spent_s: what was counted besides, from the first of them to the last.
    """

    first: list[int] = field(default_factory=list)
    tokens: list[int] = field(default_factory=list)
    spent_s: float = 0.0


class Client(asyncio.Protocol):
    """Asks for one stream after another on one connection, until told to stop."""

    def __init__(self, request: bytes, times: Times, pause_s: float) -> None:
        self._request, self._times, self._pause_s = request, times, pause_s
        self._unread = b""
        self._fresh, self._stopping = True, False
        self.done = asyncio.get_running_loop().create_future()

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        """It is open."""
        self._transport = transport
        self._ask()

    def connection_lost(self, error: Exception | None) -> None:
        """It is gone."""
        if not self.done.done():
            self.done.set_exception(RuntimeError(f"the connection broke: {error}"))

    def data_received(self, data: bytes) -> None:
        """More has come."""
        now = time.monotonic_ns()
        text = self._unread + data
        at = 0
        for told in TIMES.finditer(text):
            received, sent = int(told.group(1)), int(told.group(2))
            at = told.end()
            self._times.tokens.append(now - sent)
            if self._fresh:
                self._fresh = False
                self._times.first.append(received - self._asked + now - sent)
        self._unread = text[at:]
        if self._unread.endswith(END):
            asyncio.get_running_loop().call_later(self._pause_s, self._ask)
        elif self._fresh and text.startswith(b"HTTP/1.1 ") and not text.startswith(b"HTTP/1.1 200"):
            self.done.set_exception(RuntimeError(text.decode()))

    def stop(self) -> None:
        """Ask no more."""
        self._stopping = True

    def _ask(self) -> None:
        self._unread, self._fresh = b"", True
        if self._stopping:
            self.done.set_result(None)
            self._transport.close()
            return
        self._asked = time.monotonic_ns()
        self._transport.write(self._request)


async def stream(address: str, load: Load, seed: int, spent_s: Callable[[], float]) -> Times:
    """Keep a load's streams going for its time, after a moment that does not count."""
    place = urlsplit(address)
    rng = np.random.default_rng(seed)
    times = Times()
    clients = []
    for number in range(load.together):
        client = Client(load.request(place.netloc, number), times, float(rng.uniform(0.0, 2.0 / load.rate)))
        await asyncio.get_running_loop().create_connection(lambda client=client: client, place.hostname, place.port)
        clients.append(client)
        await asyncio.sleep(float(rng.uniform(0.0, 1.0 / load.together)))
    await asyncio.sleep(0.5)
    times.first.clear()
    times.tokens.clear()
    before_s = spent_s()
    await asyncio.sleep(load.seconds)
    kept = Times(times.first.copy(), times.tokens.copy(), spent_s() - before_s)
    for client in clients:
        client.stop()
    await asyncio.gather(*(client.done for client in clients))
    return kept


async def serve(port: int) -> None:
    """Serve until interrupted."""
    pace = Pace()
    server = await asyncio.get_running_loop().create_server(lambda: Connection(pace), "127.0.0.1", port)
    await server.serve_forever()


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--port", type=int, default=8000)
    with suppress(KeyboardInterrupt):
        asyncio.run(serve(parser.parse_args().port))
