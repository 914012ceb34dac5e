"""A server on a socket that answers as a test tells it, byte for byte; it needs no package."""

import asyncio
import json
import threading
from contextlib import asynccontextmanager, contextmanager

from batchpilot.serving.load.run import LoadSettings, run_load

MODELS = {"object": "list", "data": [{"id": "scripted", "object": "model"}]}
EVENTS = "text/event-stream; charset=utf-8"


def event(data):
    return f"data: {data if isinstance(data, str) else json.dumps(data)}\n\n".encode()


def text(said, finish=None, **more):
    return event({"choices": [{"index": 0, "text": said, "finish_reason": finish}], **more})


def delta(finish=None, **said):
    return event({"choices": [{"index": 0, "delta": said, "finish_reason": finish}]})


def usage(output, prompt=20):
    return event({"choices": [], "usage": {"prompt_tokens": prompt, "completion_tokens": output}})


DONE = event("[DONE]")


class Exchange:
    """One request and the connection that it came by."""

    def __init__(self, path, body, writer):
        self.path, self.body, self.writer = path, body, writer

    def head(self, status=200, kind=EVENTS, **headers):
        lines = {"content-type": kind, **{name.replace("_", "-"): value for name, value in headers.items()}}
        told = "".join(f"{name}: {value}\r\n" for name, value in lines.items())
        self.writer.write(f"HTTP/1.1 {status} Said\r\n{told}\r\n".encode())

    def whole(self, data, status=200, kind="application/json"):
        data = data if isinstance(data, bytes) else json.dumps(data).encode()
        self.head(status, kind, content_length=str(len(data)))
        self.writer.write(data)

    def stream(self, *pieces, ends=True, **headers):
        self.head(transfer_encoding="chunked", **headers)
        self.send(*pieces, *([b""] if ends else []))

    def send(self, *pieces):
        """More of a stream; an empty piece ends it."""
        for piece in pieces:
            self.writer.write(b"%x\r\n%b\r\n" % (len(piece), piece))

    def close(self):
        self.writer.close()


class Scripted:
    """Answers completions by a script: a function, or a coroutine, of an `Exchange`; a GET by what it says there."""

    def __init__(self, script, says=None):
        self.script = script
        self.says = {path: (told, 200) for path, told in (says or {}).items()}
        self.asked, self.connections, self.open, self.most_open = [], 0, 0, 0

    async def answer(self, reader, writer):
        self.connections += 1
        try:
            while True:
                head = (await reader.readuntil(b"\r\n\r\n")).decode()
                length = next(
                    (line[15:] for line in head.lower().split("\r\n") if line.startswith("content-length:")), 0
                )
                body = await reader.readexactly(int(length))
                path = head.split(" ")[1]
                exchange = Exchange(path, json.loads(body or b"null"), writer)
                if path.endswith("/models"):
                    exchange.whole(MODELS)
                    continue
                if head.startswith("GET"):
                    exchange.whole(*self.says.get(path, ({}, 404)))
                    continue
                self.asked.append((head, exchange.body))
                self.open += 1
                self.most_open = max(self.most_open, self.open)
                said = self.script(exchange)
                if asyncio.iscoroutine(said):
                    await said
                self.open -= 1
        except (asyncio.IncompleteReadError, ConnectionError):
            writer.close()


@asynccontextmanager
async def scripted(script, says=None):
    """Yields the server and its address."""
    served = Scripted(script, says)
    server = await asyncio.start_server(served.answer, "127.0.0.1", 0, backlog=4096)
    try:
        yield served, f"http://127.0.0.1:{server.sockets[0].getsockname()[1]}"
    finally:
        server.close()


def loaded(script, requests, *, stop=None, on_progress=None, url="{}", **settings):
    """What comes of requests to a scripted server, and the server."""

    async def run():
        async with scripted(script) as (served, address):
            asked = LoadSettings(url.format(address), **({"bytes_per_token": 4.0} | settings))
            stopping = None if stop is None else asyncio.Event()
            if stopping is not None:
                asyncio.get_running_loop().call_later(stop, stopping.set)
            return await run_load(requests, asked, on_progress, stopping), served

    return asyncio.run(run())


@contextmanager
def threaded(script, says=None):
    """Yields the address of a scripted server in a thread of its own, for commands that bring their own event loop."""
    started, stopping, found = threading.Event(), None, []

    async def serve():
        nonlocal stopping
        stopping = asyncio.Event()
        async with scripted(script, says) as (served, address):
            found.extend((served, address))
            started.set()
            await stopping.wait()

    loop = asyncio.new_event_loop()
    thread = threading.Thread(target=lambda: loop.run_until_complete(serve()), daemon=True)
    thread.start()
    assert started.wait(10)
    try:
        yield found[1]
    finally:
        loop.call_soon_threadsafe(stopping.set)
        thread.join(10)
