"""What passes the gateway as it is, whatever methods, bodies, encodings and dialects clients and upstreams speak."""

import gzip
import json
import threading

import pytest

httpx = pytest.importorskip("httpx")
pytest.importorskip("httptools")
pytest.importorskip("uvicorn")

from gateway_scripts import ASKED, OK, STREAM, WHOLE, before, chunked, exchanged, post, saying, status  # noqa: E402
from gateway_servers import serving, wait_until  # noqa: E402

from batchpilot import Limits  # noqa: E402
from batchpilot.baselines import StaticTuner  # noqa: E402
from batchpilot.serving.gateway import Gateway, GatewaySettings  # noqa: E402
from batchpilot.serving.session.session import TunerSession  # noqa: E402


@pytest.mark.parametrize("method", ["GET", "HEAD", "OPTIONS", "PUT", "PATCH", "DELETE"])
@pytest.mark.parametrize("path", ["/v1/completions", "/v1/models/a%2Fb?x=1&x=2"])
def test_every_method_passes(method, path):
    body = b"" if method == "HEAD" else b"some"
    script, heard = saying(OK + b"Content-Length: 4\r\nAllow: GET\r\nallow: PUT\r\n\r\n" + body)
    with before(script) as gateway:
        for _ in range(2):
            answer = httpx.request(method, gateway + path, trust_env=False)
            assert (answer.status_code, answer.content) == (200, body)
            assert answer.headers["content-length"] == "4"
            assert answer.headers.get_list("allow") == ["GET", "PUT"]
    assert [head.split(b"\r\n")[0].decode() for head, _ in heard] == [f"{method} {path} HTTP/1.1"] * 2


@pytest.mark.parametrize(
    "events",
    [
        [b'data:{"choices":[{"text":"a"}]}\n\n', b'data:{"choices":[{"text":"b"}]}\n\n', b"data:[DONE]\n\n"],
        [
            b'data: {"choices":[{"text":"a"}]}  \r\n\r\n',
            b'data: {"choices":[{"text":"b"}]} \r\n\r\n',
            b"data: [DONE]\r\n\r\n",
        ],
        [
            b": ping\n\n",
            b'event: x\nid: 1\ndata: {"choices":[{"delta":{"content":"a"}}]}\n\ndata: {"choices":[{"delta"',
        ],
    ],
)
def test_dialects_of_events_pass_byte_for_byte_and_are_counted(events):
    if b"delta" in events[-1]:
        events = [*events, b':{"content":"b"}}]}\n\ndata: {"choices":[],"usage":null}\n\ndata: [DONE]\n\n']
    script, _ = saying(STREAM + b"Transfer-Encoding: chunked\r\n\r\n" + chunked(*events))
    with before(script) as gateway:
        assert post(gateway).content == b"".join(events)
        told = status(gateway)
    assert (told["ended"], told["output_tokens"]) == ({"finished": 1}, 2)


def test_usage_asked_for_by_stream_options_counts():
    events = [
        b'data: {"choices":[{"text":"a"}],"usage":null}\n\n',
        b'data: {"choices":[],"usage":{"completion_tokens":7}}\n\ndata: [DONE]\n\n',
    ]
    script, heard = saying(STREAM + b"Transfer-Encoding: chunked\r\n\r\n" + chunked(*events))
    asked = ASKED | {"stream_options": {"include_usage": True}}
    with before(script) as gateway:
        assert post(gateway, json=asked).content == b"".join(events)
        assert status(gateway)["output_tokens"] == 7
    assert json.loads(heard[0][1]) == asked


@pytest.mark.parametrize("usage", [b"null", b'{"prompt_tokens":3,"completion_tokens":1}'])
def test_an_echo_without_generation_is_served_and_no_output(usage):
    events = [
        b'data: {"choices":[{"text":"a prompt","logprobs":{"tokens":["a"," prompt"]},"finish_reason":"length"}]}\n\n',
        b'data: {"choices":[],"usage":%b}\n\ndata: [DONE]\n\n' % usage,
    ]
    script, heard = saying(STREAM + b"Transfer-Encoding: chunked\r\n\r\n" + chunked(*events))
    asked = ASKED | {"max_tokens": 0, "echo": True, "logprobs": 1}
    with before(script) as gateway:
        assert post(gateway, json=asked).content == b"".join(events)
        told = status(gateway)
    assert json.loads(heard[0][1]) == asked
    assert (told["ended"], told["output_tokens"], told["kept_promises"]) == ({"finished": 1}, 0, 1)
    assert told["ttft_ms_p50"] == told["e2e_ms_p50"] > 0.0


@pytest.mark.parametrize("encoding", ["gzip", "br"])
def test_packed_answers_pass_as_they_are(encoding):
    plain = b'data: {"choices":[{"text":"a"}]}\n\n' * 3 + b"data: [DONE]\n\n"
    packed = gzip.compress(plain) if encoding == "gzip" else b"whatever"
    head = STREAM + f"Content-Encoding: {encoding}\r\nContent-Length: {len(packed)}\r\n\r\n".encode()
    script, _ = saying(head + packed)
    with before(script) as gateway, httpx.Client(trust_env=False) as client:
        with client.stream("POST", f"{gateway}/v1/completions", json=ASKED) as answer:
            assert b"".join(answer.iter_raw()) == packed
            assert answer.headers["content-encoding"] == encoding
        told = status(gateway)
    assert (told["ended"], told["output_tokens"]) == (
        ({"finished": 1}, 3) if encoding == "gzip" else ({"unread": 1}, 0)
    )


def test_an_answer_that_ends_with_its_connection_is_complete():
    script, _ = saying(STREAM + b'\r\ndata: {"choices":[{"text":"a"}]}\n\ndata: [DONE]\n\n')
    with before(script) as gateway:
        assert post(gateway).text.endswith("data: [DONE]\n\n")
        assert status(gateway)["ended"] == {"finished": 1}


def test_heads_that_only_announce_are_left_out():
    script, _ = saying(b"HTTP/1.1 103 Early Hints\r\nLink: x\r\n\r\n" + OK + b"X-A: 1\r\nContent-Length: 2\r\n\r\nhi")
    with before(script) as gateway:
        answer = httpx.get(f"{gateway}/v1/models", trust_env=False)
    assert (answer.status_code, answer.text, answer.headers["x-a"]) == (200, "hi", "1")
    assert "link" not in answer.headers


def test_bodies_in_chunks_go_through_and_past_the_gate():
    script, heard = saying(WHOLE)
    body = json.dumps(ASKED).encode()
    with before(script) as gateway:
        assert post(gateway, json=None, content=iter([body[:5], body[5:]])).status_code == 200
        assert httpx.put(f"{gateway}/v1/files", content=iter([b"ab", b"c"]), trust_env=False).status_code == 200
        told = status(gateway)
    assert heard[0][1] == body
    assert b"content-length: %d" % len(body) in heard[0][0]
    assert heard[1][1] == chunked(b"ab", b"c") or heard[1][1] == chunked(b"abc")
    assert told["ended"] == {"finished": 1}


def test_a_client_that_waits_for_leave_to_send_gets_it():
    script, heard = saying(OK + b"Content-Length: 2\r\n\r\n{}")
    body = json.dumps(ASKED).encode()
    head = b"POST /v1/completions HTTP/1.1\r\nHost: 127.0.0.1\r\nExpect: 100-continue\r\nConnection: close\r\n"
    with before(script) as gateway:
        said = exchanged(gateway, head + b"Content-Length: %d\r\n\r\n" % len(body) + body)
    assert said.startswith(b"HTTP/1.1 100 Continue\r\n\r\nHTTP/1.1 200 OK\r\n")
    assert b"expect" not in heard[0][0].lower()


def test_a_large_body_passes_in_pieces_and_is_not_held():
    most, total, gone = 0, 0, threading.Event()

    class Counts:
        async def __call__(self, scope, receive, send):
            nonlocal total
            if scope["type"] == "lifespan":
                return
            more = True
            while more:
                message = await receive()
                total, more = total + len(message["body"]), message["more_body"]
            await send({"type": "http.response.start", "status": 200, "headers": [(b"content-length", b"0")]})
            await send({"type": "http.response.body"})
            gone.set()

    class Watched(Gateway):
        async def __call__(self, scope, receive, send):
            nonlocal most
            heard = 0

            async def counted():
                nonlocal heard, most
                message = await receive()
                heard += len(message.get("body", b""))
                most = max(most, heard - total)
                return message

            await super().__call__(scope, counted, send)

    with serving(Counts()) as upstream:
        session = TunerSession(StaticTuner(Limits(8)))
        with serving(Watched(session, GatewaySettings(upstream, poll_s=0))) as gateway:
            sent = (b"x" * 65536 for _ in range(640))
            assert httpx.post(f"{gateway}/v1/files", content=sent, trust_env=False, timeout=30).status_code == 200
    assert total == 640 * 65536
    assert most < total / 2


@pytest.mark.parametrize("in_chunks", [False, True])
def test_a_completion_that_is_too_large_is_refused_with_both_numbers(in_chunks):
    script, heard = saying(OK + b"Content-Length: 2\r\n\r\n{}")
    body = json.dumps(ASKED | {"prompt": "x" * 3000}).encode()
    with before(script, largest_body_mb=0.001) as gateway:
        answer = post(gateway, json=None, content=iter([body]) if in_chunks else body)
        assert post(gateway).status_code == 200
    assert (answer.status_code, answer.json()["error"]["code"]) == (413, "request_too_large")
    assert f"at least {len(body)} bytes; the gateway takes 1000" in answer.json()["error"]["message"]
    assert len(heard) == 1


@pytest.mark.parametrize("path", ["/v1/embeddings", "/rerank", "/v1/audio/transcriptions", "/tokenize"])
def test_requests_that_generate_nothing_do_not_wait(path):
    script, _ = saying(OK + b'Content-Type: application/json\r\nContent-Length: 12\r\n\r\n{"data": []}')
    with before(script) as gateway:
        answer = httpx.post(gateway + path, json={"input": ["a", "b"], "model": "m"}, trust_env=False)
        assert answer.json() == {"data": []}
        assert status(gateway)["ended"] == {}


def test_websockets_are_refused_in_words():
    script, heard = saying(OK + b"Content-Length: 0\r\n\r\n")
    with before(script) as gateway:
        headers = {"connection": "upgrade", "upgrade": "websocket"}
        answer = httpx.get(f"{gateway}/v1/realtime", headers=headers, trust_env=False)
    assert (answer.status_code, answer.json()["error"]["code"]) == (501, "websocket_not_spoken")
    assert heard == []


def test_two_lengths_in_one_request_do_not_reach_the_upstream():
    script, heard = saying(OK + b"Content-Length: 2\r\n\r\n{}")
    asked = b"POST /v1/files HTTP/1.1\r\nHost: x\r\nContent-Length: 5\r\nTransfer-Encoding: chunked\r\n"
    with before(script) as gateway:
        said = exchanged(gateway, asked + b"Connection: close\r\n\r\n0\r\n\r\nGET /hidden HTTP/1.1\r\nHost: x\r\n\r\n")
        wait_until(lambda: said)
    assert said.startswith(b"HTTP/1.1 400") or len(heard) <= 1
    assert not any(b"hidden" in head + body for head, body in heard)


def test_a_slow_client_slows_the_upstream_down():
    written, stopped = 0, threading.Event()

    def script(connection, request):
        nonlocal written
        connection.sendall(STREAM + b"Transfer-Encoding: chunked\r\n\r\n")
        connection.settimeout(0.3)
        piece = chunked(b"data: " + b"x" * 65530 + b"\n\n")[:-5]
        try:
            while written < 100e6:
                connection.sendall(piece)
                written += len(piece)
        except TimeoutError:
            stopped.set()
        return False

    with before(script) as gateway, httpx.Client(trust_env=False, timeout=20) as client:
        with client.stream("POST", f"{gateway}/v1/completions", json=ASKED) as answer:
            said = answer.iter_raw(16)
            next(said)
            assert stopped.wait(15)
        assert written < 100e6
        wait_until(lambda: status(gateway)["running"] == 0)
