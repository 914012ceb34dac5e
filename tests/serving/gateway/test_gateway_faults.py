"""What a client sees when an upstream misbehaves on the wire, and that nothing is left behind."""

import json
import socket
import struct
import threading
import time

import pytest

httpx = pytest.importorskip("httpx")
pytest.importorskip("httptools")
pytest.importorskip("uvicorn")

from gateway_scripts import STREAM, WHOLE, before, chunked, post, saying, speaking, status  # noqa: E402
from gateway_servers import serving, wait_until  # noqa: E402

from batchpilot import Limits  # noqa: E402
from batchpilot.baselines import StaticTuner  # noqa: E402
from batchpilot.runners.http.gateway.deciding import gateway_session  # noqa: E402
from batchpilot.serving.gateway import Gateway, GatewaySettings  # noqa: E402
from batchpilot.serving.session.worker import Worker  # noqa: E402

DONE = b"data: [DONE]\n\n"
TOKEN = b'data: {"choices":[{"text":"a"}]}\n\n'
BEGUN = STREAM + b"Transfer-Encoding: chunked\r\n\r\n" + chunked(TOKEN)[:-5]


def last_error(answer):
    """The error in the last event of a stream."""
    return json.loads(answer.text.strip().rpartition("data: ")[2])["error"]


@pytest.mark.parametrize(
    "answer", [b"SSH-2.0-OpenSSH_9.2\r\n", b"HTTP/1.1 200 OK\nX: 1\n\n", b"", b"HTTP/1.1 101 Go\r\nUpgrade: x\r\n\r\n"]
)
def test_what_is_no_answer_is_a_502(answer):
    script, _ = saying(answer)
    with before(script) as gateway:
        for response in (post(gateway), httpx.get(f"{gateway}/v1/models", trust_env=False)):
            assert (response.status_code, response.json()["error"]["code"]) == (502, "upstream_broke_off")
        assert (status(gateway)["ended"], status(gateway)["running"]) == ({"failed": 1}, 0)


LONG = b"x" * 70_000


@pytest.mark.parametrize(
    "answer",
    [
        b"HTTP/1.1 200 OK\r\nX: %b\r\nContent-Length: 2\r\n\r\n{}" % LONG,
        b"HTTP/1.1 200 OK\r\nX: %b\r\nContent-Length: 0\r\n\r\n" % LONG,
        b"HTTP/1.1 200 OK\r\n" + b"X: 1\r\n" * 20_000,
        b"HTTP/1.1 200 " + LONG,
        b"HTTP/1.1 100 Continue\r\n\r\n" * 10_000 + WHOLE,
    ],
    ids=["one header", "one of no body", "endless headers", "an endless line", "endless interim heads"],
)
def test_a_head_of_an_answer_beyond_its_bound_is_a_502(answer):
    script, _ = saying(answer)
    with before(script) as gateway:
        for response in (post(gateway), httpx.get(f"{gateway}/v1/models", trust_env=False)):
            assert (response.status_code, response.json()["error"]["code"]) == (502, "upstream_head_too_large")
        assert (status(gateway)["ended"], status(gateway)["running"]) == ({"failed": 1}, 0)


@pytest.mark.parametrize("tail", [b"1;" + 16 * LONG, b"0\r\nX: " + 16 * LONG, b"0\r\n" + b"X: 1\r\n" * 200_000])
def test_what_stands_between_chunks_or_after_them_has_the_bound_too(tail):
    script, _ = saying(BEGUN + tail)
    with before(script) as gateway:
        assert last_error(post(gateway))["code"] == "upstream_head_too_large"
        assert (status(gateway)["ended"], status(gateway)["running"]) == ({"failed": 1}, 0)


def test_a_stream_that_falls_silent_ends_with_an_error_event():
    held = threading.Event()

    def script(connection, request):
        connection.sendall(BEGUN)
        held.wait(10)

    with before(script, silence_timeout_s=0.2) as gateway:
        answer = post(gateway)
        held.set()
        assert answer.content.startswith(TOKEN)
        assert last_error(answer)["code"] == "upstream_silent"
        assert status(gateway)["ended"] == {"failed": 1}


def test_a_slow_upstream_is_no_silent_one():
    def script(connection, request):
        connection.sendall(BEGUN)
        for _ in range(6):
            time.sleep(0.1)
            connection.sendall(chunked(TOKEN)[:-5])
        connection.sendall(chunked(DONE))
        return True

    with before(script, silence_timeout_s=0.4) as gateway:
        assert post(gateway).content == 7 * TOKEN + DONE
        assert status(gateway)["ended"] == {"finished": 1}


def test_an_upstream_that_resets_the_connection_mid_stream_is_told():
    def script(connection, request):
        connection.sendall(BEGUN)
        time.sleep(0.05)
        connection.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
        return False

    with before(script) as gateway:
        answer = post(gateway)
        assert last_error(answer)["code"] == "upstream_broke_off"
        assert status(gateway)["ended"] == {"failed": 1}


def test_a_kept_connection_that_the_upstream_has_closed_is_not_used_again():
    used = []

    def script(connection, request):
        used.append(connection.fileno())
        connection.sendall(WHOLE)
        return False

    with before(script) as gateway:
        for _ in range(5):
            assert post(gateway).status_code == 200
            time.sleep(0.02)
        assert status(gateway)["ended"] == {"finished": 5}


def closing_on_the_second(after_s=0.0):
    """Every connection is closed once a second request has come on it, nothing said; the requests that were heard."""
    heard, met = [], set()

    def script(connection, request):
        heard.append(request)
        if connection in met:
            time.sleep(after_s)
            return False
        met.add(connection)
        connection.sendall(WHOLE)
        return True

    return script, heard


def test_a_completion_that_meets_a_closing_connection_goes_out_on_a_new_one():
    script, heard = closing_on_the_second()
    with before(script) as gateway:
        assert [post(gateway).status_code for _ in range(5)] == 5 * [200]
        assert httpx.get(f"{gateway}/v1/models", trust_env=False).status_code == 200
        assert status(gateway)["ended"] == {"finished": 5}
    assert len(heard) > 6


def test_what_changes_something_at_the_upstream_is_never_sent_twice():
    script, heard = closing_on_the_second()
    with before(script) as gateway:
        answers = [httpx.post(f"{gateway}/v1/files", content=b"x", trust_env=False).status_code for _ in range(2)]
    assert answers == [200, 502]
    assert len(heard) == 2


def test_a_request_that_was_under_way_when_the_upstream_broke_off_is_not_sent_twice(monkeypatch):
    monkeypatch.setattr("batchpilot.serving.gateway.connection.CLOSED_S", 0.1)
    script, heard = closing_on_the_second(after_s=0.3)
    with before(script) as gateway:
        assert [post(gateway).status_code for _ in range(2)] == [200, 502]
        assert status(gateway)["ended"] == {"finished": 1, "failed": 1}
    assert len(heard) == 2


def test_connections_are_used_again():
    connections = set()

    def script(connection, request):
        connections.add(connection)
        connection.sendall(WHOLE)
        return True

    with before(script) as gateway:
        for _ in range(5):
            assert post(gateway).status_code == 200
    assert len(connections) == 1


def test_an_answer_before_the_body_was_read_reaches_the_client():
    def script(connection, request):
        connection.sendall(b"HTTP/1.1 403 Forbidden\r\nContent-Length: 2\r\n\r\nno")
        time.sleep(0.2)
        return False

    with before(script, heads_only=True) as gateway:
        sent = (b"x" * 65536 for _ in range(50))
        answer = httpx.post(f"{gateway}/v1/files", content=sent, trust_env=False, timeout=10)
        assert (answer.status_code, answer.text) == (403, "no")


def test_a_client_that_leaves_closes_the_upstreams_connection():
    left = threading.Event()

    def script(connection, request):
        connection.sendall(BEGUN)
        try:
            while connection.recv(1):
                pass
        except OSError:
            pass
        left.set()

    with before(script) as gateway, httpx.Client(trust_env=False, timeout=10) as client:
        with client.stream("POST", f"{gateway}/v1/completions", json={"prompt": "x", "stream": True}) as answer:
            said = answer.iter_raw()
            next(said)
        assert left.wait(5)
        wait_until(lambda: status(gateway)["ended"] == {"cancelled": 1})
        assert status(gateway)["running"] == 0


@pytest.mark.parametrize(("code", "counted"), [(429, "refused_upstream"), (503, "refused_upstream"), (500, "failed")])
def test_errors_of_the_upstream_come_as_it_said_them(code, counted):
    said = b'{"error": {"message": "its own words"}}'
    head = f"HTTP/1.1 {code} Whatever\r\nRetry-After: 7\r\nContent-Length: {len(said)}\r\n\r\n".encode()
    script, _ = saying(head + said)
    with before(script) as gateway:
        answer = post(gateway)
        assert (answer.status_code, answer.content, answer.headers["retry-after"]) == (code, said, "7")
        assert status(gateway)["ended"] == {counted: 1}


class Thinking(StaticTuner):
    """Thinks in `tell` until it may go on."""

    def __init__(self):
        super().__init__(Limits(8))
        self.may_go_on = threading.Event()

    def tell(self, metrics):
        assert self.may_go_on.wait(20)


def test_a_tuner_that_thinks_for_long_keeps_no_stream_waiting(monkeypatch):
    waited_s, wait = [], Worker.wait
    monkeypatch.setattr(Worker, "wait", lambda worker, timeout_s: waited_s.append(timeout_s) or wait(worker, timeout_s))
    script, _ = saying(WHOLE)
    tuner = Thinking()
    with speaking(script) as upstream:
        session = gateway_session(tuner, 50.0)
        with serving(Gateway(session, GatewaySettings(upstream, poll_s=0))) as gateway:
            wait_until(lambda: status(gateway)["tells_late"])
            assert post(gateway).status_code == 200
            wait_until(lambda: status(gateway)["windows_untold"])
            assert status(gateway)["tells_late"] == 1
            tuner.may_go_on.set()
    assert waited_s
    assert max(waited_s) <= 0.05
