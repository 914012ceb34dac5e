"""Whom and what the gateway does not let in or lead out: changes, foreign pages, late bodies, redirects, passwords."""

import contextlib
import gzip
import json
import socket
import tracemalloc

import pytest

httpx = pytest.importorskip("httpx")
pytest.importorskip("httptools")
pytest.importorskip("uvicorn")

from gateway_scripts import ASKED, OK, before, exchanged, post, saying, speaking, status  # noqa: E402
from gateway_servers import serving, wait_until  # noqa: E402

from batchpilot import Limits  # noqa: E402
from batchpilot.baselines import StaticTuner  # noqa: E402
from batchpilot.runners.http.gateway.running import serve  # noqa: E402
from batchpilot.serving.gateway import Gateway, GatewaySettings  # noqa: E402
from batchpilot.serving.gateway.answers import PassingAnswer  # noqa: E402
from batchpilot.serving.gateway.redirects import led_back  # noqa: E402
from batchpilot.serving.session.session import TunerSession  # noqa: E402

TUNER = "/api/scheduler/tuner"
TOKEN = "a token of some length"
FINE = OK + b"Content-Length: 2\r\n\r\n{}"
CHANGES = [
    ("POST", f"{TUNER}/batch-size"),
    ("POST", f"{TUNER}/reset"),
    ("DELETE", f"{TUNER}/policy"),
    ("PUT", f"{TUNER}/config"),
    ("POST", f"/{TUNER}/reset"),
    ("POST", "/api/./scheduler/x/../tuner/reset"),
    ("POST", "/api/scheduler/%74uner/reset"),
]


@pytest.mark.parametrize(("method", "path"), CHANGES)
def test_changes_of_the_tuner_are_not_passed_on(method, path):
    script, heard = saying(FINE)
    with before(script) as gateway:
        line = f"{method} {path} HTTP/1.1\r\nHost: 127.0.0.1\r\nContent-Length: 2\r\nConnection: close\r\n\r\n{{}}"
        said = exchanged(gateway, line.encode())
        assert said.startswith(b"HTTP/1.1 403 ")
        assert b"change_not_passed_on" in said
        assert httpx.get(f"{gateway}{TUNER}/status", trust_env=False).status_code == 200
    assert len(heard) == 1


def test_with_a_token_they_are_passed_on_for_whoever_has_it():
    script, heard = saying(FINE)
    with before(script, token=TOKEN) as gateway:
        url = f"{gateway}{TUNER}/reset"
        codes = [
            httpx.post(url, headers=headers, trust_env=False).status_code
            for headers in ({}, {"authorization": "Bearer guess"}, {"authorization": f"Basic {TOKEN}"})
        ]
        assert codes == [401, 403, 403]
        assert not heard
        assert httpx.post(url, headers={"authorization": f"Bearer {TOKEN}"}, trust_env=False).status_code == 200
        assert post(gateway, headers={"host": "server.example"}).status_code == 200


@pytest.mark.parametrize("headers", [{"host": "evil.example"}, {"origin": "http://evil.example"}, {"origin": "null"}])
@pytest.mark.parametrize("path", ["/v1/completions", "/v1/embeddings", "/gateway/status", "/metrics", "/health"])
def test_without_a_token_no_foreign_page_is_answered(path, headers):
    script, heard = saying(FINE)
    with before(script) as gateway:
        answer = httpx.post(f"{gateway}{path}", json=ASKED, headers=headers, trust_env=False)
    assert (answer.status_code, answer.json()["error"]["code"]) == (403, "foreign_request")
    assert not heard


@pytest.mark.parametrize(("host", "token"), [("0.0.0.0", None), ("::", None), ("127.0.0.1", "short")])
def test_beyond_this_machine_it_asks_for_a_token(host, token):
    with pytest.raises(ValueError, match="token"):
        serve(None, GatewaySettings("http://127.0.0.1:9", token=token), host, 0)


@pytest.mark.parametrize(
    "address",
    ["http://me:secret@127.0.0.1:9", "ftp://me:secret@x", "me:secret@127.0.0.1:9", "http://127.0.0.1:9/?key=secret"],
)
def test_a_password_in_the_upstreams_address_is_refused_and_not_told(address):
    with pytest.raises(ValueError, match="upstream") as refused:
        GatewaySettings(address)
    assert "secret" not in str(refused.value)
    assert TOKEN not in repr(GatewaySettings("http://127.0.0.1:9", token=TOKEN))


@pytest.mark.parametrize("path", ["/v1/completions", "/v1/embeddings"])
@pytest.mark.parametrize("length", ["Content-Length: 100", "Content-Length: 2000000", "Transfer-Encoding: chunked"])
def test_a_body_that_does_not_come_is_not_waited_for(path, length):
    script, _ = saying(FINE)
    with before(script, body_s=0.2) as gateway:
        sent = f"POST {path} HTTP/1.1\r\nHost: 127.0.0.1\r\nContent-Type: application/json\r\n{length}\r\n\r\n"
        assert exchanged(gateway, sent.encode()).startswith(b"HTTP/1.1 408 ")
        assert (status(gateway)["running"], status(gateway)["ended"]) == (0, {})


@pytest.mark.parametrize("path", ["/v1/completions", "/v1/embeddings"])
def test_half_sent_bodies_hold_no_more_than_their_bound(path):
    script, heard = saying(FINE)
    size = 900_000
    head = f"POST {path} HTTP/1.1\r\nHost: 127.0.0.1\r\nContent-Length: {size}\r\n\r\n".encode()
    with before(script, bodies_mb=1.0, largest_body_mb=1.0) as gateway, contextlib.ExitStack() as open_ones:
        address = httpx.URL(gateway)
        half_sent = open_ones.enter_context(socket.create_connection((address.host, address.port), timeout=10.0))
        half_sent.sendall(head + b" " * (size // 2))
        wait_until(lambda: status(gateway)["held_body_bytes"] > size // 3)
        refused = httpx.post(f"{gateway}{path}", content=b" " * size, trust_env=False)
        assert (refused.status_code, refused.json()["error"]["code"]) == (503, "bodies_full")
        assert int(refused.headers["retry-after"]) >= 1
        endless = head.replace(b"Content-Length: %d" % size, b"Transfer-Encoding: chunked")
        if path == "/v1/completions":
            chunk = b"%x\r\n%b\r\n" % (2**16, b" " * 2**16)
            another = open_ones.enter_context(socket.create_connection((address.host, address.port), timeout=10.0))
            another.sendall(endless + 12 * chunk)
            assert another.recv(65536).startswith(b"HTTP/1.1 503 ")
        assert size // 3 < status(gateway)["held_body_bytes"] < size // 2
        assert httpx.post(f"{gateway}{path}", json=ASKED, trust_env=False).status_code == 200
        open_ones.close()
        wait_until(lambda: status(gateway)["held_body_bytes"] == 0)
        assert httpx.post(f"{gateway}{path}", content=b" " * size, trust_env=False).status_code == 200
    assert len(heard) == 2


@pytest.mark.parametrize("value", [b"1,", b"[1],"])
def test_a_body_of_more_values_than_any_context_is_not_parsed_and_does_not_pass(value):
    script, heard = saying(FINE)
    few, many = (b'{"prompt":[' + value * count + b"1]}" for count in (200_000, 2**21 + 1))
    with before(script) as gateway:
        refused = httpx.post(f"{gateway}/v1/completions", content=many, timeout=20.0, trust_env=False)
        assert (refused.status_code, refused.json()["error"]["code"]) == (413, "request_too_large")
        assert "2097152 values" in refused.json()["error"]["message"]
        assert not heard
        assert httpx.post(f"{gateway}/v1/completions", content=few, timeout=20.0, trust_env=False).status_code == 200
    assert heard[0][1] == few


def test_a_redirect_of_the_upstream_leads_back_to_the_gateway():
    def script(connection, request):
        here = ":".join(map(str, connection.getsockname()))
        there = f"http://{here}/base/v1/completions?x=1" if b"/completions/ " in request[0] else "http://x.example/"
        connection.sendall(f"HTTP/1.1 307 Go\r\nLocation: {there}\r\nContent-Length: 0\r\n\r\n".encode())
        return True

    with before(script) as gateway:
        answer = httpx.post(f"{gateway}/v1/completions/", json=ASKED, trust_env=False)
        assert (answer.status_code, answer.headers["location"]) == (307, "/base/v1/completions?x=1")
        elsewhere = post(gateway)
        assert (elsewhere.status_code, elsewhere.json()["error"]["code"]) == (502, "upstream_redirects")
        assert status(gateway)["ended"] == {"failed": 1}
        assert httpx.get(f"{gateway}/about", trust_env=False).headers["location"] == "http://x.example/"


@pytest.mark.parametrize(
    ("location", "here"),
    [
        ("/base/v1/x", "/v1/x"),
        ("/v1/x", "/v1/x"),
        ("x?y#z", "x?y#z"),
        ("http://localhost:8000/base/v1/x?y", "/v1/x?y"),
        ("//127.0.0.1:8000/base", "/"),
        ("HTTP://127.0.0.1:8000", "/"),
        ("http://127.0.0.1:8000/base//x.example/", "/.//x.example/"),
        ("https://127.0.0.1:8000/base", "/"),
        ("http://127.0.0.1:9000/base", None),
        ("http://x.example/", None),
        ("http://127.0.0.1:99999/", None),
        ("javascript:1", None),
    ],
)
def test_where_a_redirect_leads(location, here):
    assert led_back(location, "http://127.0.0.1:8000/base") == here


@pytest.mark.parametrize(("streams", "text"), [(True, b" "), (False, b" "), (False, b"data: {}\n\n")])
def test_a_compressed_answer_is_inflated_no_further_than_its_bound(streams, text):
    packed = gzip.compress(text * (40_000_000 // len(text)))
    reader = PassingAnswer(200, b"text/event-stream" if streams else b"application/json", b"gzip")
    tracemalloc.start()
    for place in range(0, len(packed), 2**16):
        reader.hear(packed[place : place + 2**16])
    _, most = tracemalloc.get_traced_memory()
    tracemalloc.stop()
    assert most < 35_000_000
    assert reader.ended()[0] in ("unread", "failed")


def test_an_ordinary_compressed_stream_is_counted_to_its_end():
    events = b"".join(b'data: {"choices":[{"text":"%d"}]}\n\n' % k for k in range(20_000))
    reader = PassingAnswer(200, b"text/event-stream", b"gzip")
    packed = gzip.compress(events)
    assert sum(reader.hear(packed[place : place + 999]) for place in range(0, len(packed), 999)) == 20_000


@contextlib.contextmanager
def ending(script):
    """A gateway's address and itself."""
    with speaking(script) as upstream:
        app = Gateway(TunerSession(StaticTuner(Limits(8))), GatewaySettings(upstream, poll_s=0))
        with serving(app) as gateway:
            yield gateway, app


def test_whoever_comes_while_the_gateway_ends_is_told_no():
    script, heard = saying(FINE)
    with ending(script) as (gateway, app):
        assert post(gateway).status_code == 200
        app.drain()
        refused = post(gateway)
        assert (refused.status_code, refused.json()["error"]["code"]) == (503, "shutting_down")
        assert int(refused.headers["retry-after"]) >= 1
        ready = httpx.get(f"{gateway}/ready", trust_env=False)
        assert (ready.status_code, ready.json()) == (503, {"status": "shutting down"})
        assert status(gateway)["running"] == 0
    assert len(heard) == 1
    assert json.loads(heard[0][1]) == ASKED
