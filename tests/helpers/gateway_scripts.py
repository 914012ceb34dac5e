"""Upstreams that speak byte by byte as a script says, gateways before them, and clients for both."""

import re
import socket
import threading
from contextlib import ExitStack, contextmanager
from urllib.parse import urlsplit

import httpx
from gateway_servers import serving

from batchpilot import Limits
from batchpilot.baselines import StaticTuner
from batchpilot.serving.gateway import Gateway, GatewaySettings
from batchpilot.serving.session.session import TunerSession

ASKED = {"model": "m", "prompt": "a prompt", "stream": True}
OK = b"HTTP/1.1 200 OK\r\n"
STREAM = OK + b"Content-Type: text/event-stream\r\n"
TOKEN = b'data: {"choices":[{"text":"a"}]}\n\n'
DONE = b"data: [DONE]\n\n"
ANSWER = b'{"choices": [{"text": "a", "finish_reason": "stop"}]}'
WHOLE = OK + b"Content-Type: application/json\r\nContent-Length: %d\r\n\r\n" % len(ANSWER) + ANSWER


@contextmanager
def before(script, *, heads_only=False, **settings):
    """A gateway before an upstream that speaks as a script says."""
    with ExitStack() as stack:
        upstream = stack.enter_context(speaking(script, heads_only))
        session = TunerSession(StaticTuner(Limits(8)), window_ms=50.0)
        yield stack.enter_context(serving(Gateway(session, GatewaySettings(upstream, poll_s=0, **settings))))


def saying(answer):
    """Always the same bytes, and the requests that were heard."""
    heard = []

    def script(connection, request):
        heard.append(request)
        connection.sendall(answer)
        return b"Content-Length" in answer or b"chunked" in answer

    return script, heard


def chunked(*pieces):
    return b"".join(b"%x\r\n%b\r\n" % (len(piece), piece) for piece in (*pieces, b""))


STREAMED = STREAM + b"Transfer-Encoding: chunked\r\n\r\n" + chunked(TOKEN, DONE)
"""A stream of one token, whole."""


def answered(status, body=b"{}"):
    return b"HTTP/1.1 %d Said\r\nContent-Type: application/json\r\nContent-Length: %d\r\n\r\n%b" % (
        status,
        len(body),
        body,
    )


def served_by(answer):
    return answer.headers["x-batchpilot-upstream"]


def post(address, **options):
    return httpx.post(f"{address}/v1/completions", timeout=20, trust_env=False, **({"json": ASKED} | options))


def status(address):
    return httpx.get(f"{address}/gateway/status", trust_env=False).json()


@contextmanager
def speaking(script, heads_only=False):
    """A server; its address. The script gets each connection once a request, or its head, has come on it."""
    listener = socket.create_server(("127.0.0.1", 0))
    stopped = threading.Event()

    def accept():
        while not stopped.is_set():
            try:
                connection, _ = listener.accept()
            except OSError:
                return
            threading.Thread(target=talk, args=(connection,), daemon=True).start()

    def talk(connection):
        with connection:
            try:
                while (request := read_request(connection, heads_only)) and script(connection, request):
                    pass
            except OSError:
                pass

    threading.Thread(target=accept, daemon=True).start()
    try:
        yield f"http://127.0.0.1:{listener.getsockname()[1]}"
    finally:
        stopped.set()
        listener.close()


def read_request(connection, heads_only):
    """Head and body of a request, as they came; None when the other side has left."""
    heard = b""
    while b"\r\n\r\n" not in heard:
        part = connection.recv(65536)
        if not part:
            return None
        heard += part
    head, _, body = heard.partition(b"\r\n\r\n")
    if heads_only:
        return head, body
    length = re.search(rb"content-length: *(\d+)", head, re.IGNORECASE)
    while len(body) < (int(length.group(1)) if length else 0):
        body += connection.recv(65536)
    while b"transfer-encoding" in head.lower() and not body.endswith(b"0\r\n\r\n"):
        body += connection.recv(65536)
    return head, body


def exchanged(address, request):
    """What comes back on a connection of its own for bytes sent on it, until it is closed."""
    place = urlsplit(address)
    with socket.create_connection((place.hostname, place.port), timeout=10) as connection:
        connection.sendall(request)
        said = b""
        while part := connection.recv(65536):
            said += part
    return said
