"""A server behind the doors that both servers have, and what a socket hears of it."""

import asyncio
import contextlib
import socket
import threading
import time

import uvicorn

from batchpilot.serving.doors.draining import DrainingServer
from batchpilot.serving.doors.protocol import door_settings


class Application:
    """Says how long each body was; at `/slow` once it may go on, at `/stream` after tokens until then."""

    def __init__(self):
        self.go_on = threading.Event()
        self.draining = False
        self.asked = self.left = 0

    async def __call__(self, scope, receive, send):
        if scope["type"] == "lifespan":
            for step in ("startup", "shutdown"):
                await receive()
                await send({"type": f"lifespan.{step}.complete"})
        elif scope["path"] == "/early":
            await self.say(send, 413, b"early")
        elif self.draining:
            await self.say(send, 503, b"no more")
        else:
            await self.answer(scope, receive, send)

    async def answer(self, scope, receive, send):
        body, more = b"", True
        while more:
            message = await receive()
            if message["type"] == "http.disconnect":
                self.left += 1
                return
            body, more = body + message["body"], message["more_body"]
        self.asked += 1
        leaves = asyncio.ensure_future(receive())
        if scope["path"] == "/stream":
            await send({"type": "http.response.start", "status": 200, "headers": []})
        while scope["path"] != "/" and not self.go_on.is_set() and not leaves.done():
            await asyncio.sleep(0.005)
            if scope["path"] == "/stream":
                await send({"type": "http.response.body", "body": b"token\n", "more_body": True})
        self.left += leaves.done()
        leaves.cancel()
        if scope["path"] == "/stream":
            await send({"type": "http.response.body", "body": b"last\n"})
        else:
            await self.say(send, 200, b"%d bytes" % len(body))

    @staticmethod
    async def say(send, status, body):
        headers = [(b"content-length", str(len(body)).encode())]
        await send({"type": "http.response.start", "status": status, "headers": headers})
        await send({"type": "http.response.body", "body": body})


@contextlib.contextmanager
def behind_doors(seconds=30.0, **settings):
    """An application, the server that runs it, and its address as `socket` takes it."""
    application = Application()
    options = {**door_settings(seconds), "port": 0, "log_level": "critical", "timeout_keep_alive": 30, **settings}

    def drain():
        application.draining = True

    server = DrainingServer(uvicorn.Config(application, **options), drain)
    thread = threading.Thread(target=server.run, daemon=True)
    thread.start()
    try:
        wait_until(lambda: server.started)
        yield application, server, ("127.0.0.1", server.port)
    finally:
        application.go_on.set()
        server.should_exit = True
        thread.join(20.0)
        assert not thread.is_alive()


def request(path="/", *fields, body=b"", version="1.1"):
    """The bytes of a request."""
    lines = [f"{'POST' if body else 'GET'} {path} HTTP/{version}", "Host: 127.0.0.1", *fields]
    lines += [f"Content-Length: {len(body)}"] if body else []
    return "\r\n".join([*lines, "", ""]).encode() + body


def opened(address):
    """A connection."""
    return socket.create_connection(address, timeout=20.0)


def heard(connection, until=None):
    """What comes, as far as some mark or the end of the connection."""
    said = b""
    with contextlib.suppress(ConnectionError):
        while (until is None or until not in said) and (part := connection.recv(65536)):
            said += part
    return said


def wait_until(true, seconds=20.0):
    """Wait until something holds."""
    give_up = time.monotonic() + seconds
    while not true():
        assert time.monotonic() < give_up, "waited in vain"
        time.sleep(0.005)
