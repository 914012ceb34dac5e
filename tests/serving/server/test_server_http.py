"""HTTP as it comes over the wire: bodies that are too large, too slow, compressed or no JSON; old and odd clients."""

import contextlib
import gzip
import http.client
import json
import re
import socket
import threading

import pytest

pytest.importorskip("torch")
pytest.importorskip("fastapi")
pytest.importorskip("uvicorn")
httpx = pytest.importorskip("httpx")

from policy_samples import make_policy_bytes  # noqa: E402
from running_server import TUNER, is_empty, serving, wait_for  # noqa: E402

from batchpilot.serving.server.incoming import BYTES_PER_TOKEN, LEAST_BODY_BYTES, request_bytes  # noqa: E402

BODY = json.dumps({"model": "tiny", "prompt": "x", "max_tokens": 3, "temperature": 0}).encode()
JSON = {"content-type": "application/json"}


@pytest.fixture(scope="module")
def server(runner):
    with serving(runner, body_s=0.5) as (service, url, _):
        yield service, url


def head(path="/v1/completions", *, method="POST", version="1.1", **fields):
    """The head of a request."""
    told = {"host": "127.0.0.1", **JSON, **{name.replace("_", "-"): value for name, value in fields.items()}}
    lines = [f"{method} {path} HTTP/{version}", *(f"{name}: {value}" for name, value in told.items()), "", ""]
    return "\r\n".join(lines).encode()


def heard(url, *parts, until=b"\r\n\r\n"):
    """What the server says to these bytes, as far as some mark or the end of the connection."""
    address = httpx.URL(url)
    with socket.create_connection((address.host, address.port), timeout=20.0) as connection:
        with contextlib.suppress(ConnectionError):
            for part in parts:
                connection.sendall(part)
        answer = b""
        with contextlib.suppress(ConnectionError):
            while until not in answer:
                piece = connection.recv(65536)
                if not piece:
                    break
                answer += piece
        return answer


def test_a_body_may_be_as_long_as_the_longest_request_takes():
    assert request_bytes(8192) == LEAST_BODY_BYTES
    assert request_bytes(2**20) == BYTES_PER_TOKEN * 2**20


@pytest.mark.parametrize("path", ["/v1/completions", "/v1/chat/completions", f"{TUNER}/config", f"{TUNER}/reset"])
def test_a_body_beyond_the_bound_is_refused_unread(server, path):
    _, url = server
    size = LEAST_BODY_BYTES + 1
    answer = heard(url, head(path, content_length=size), until=b"}}")
    assert answer.startswith(b"HTTP/1.1 413 ")
    assert f"the body has {size} bytes; at most {LEAST_BODY_BYTES}".encode() in answer
    assert b'"code":"body_too_large"' in answer


def test_a_policy_has_a_bound_of_its_own(server):
    _, url = server
    assert httpx.post(f"{url}{TUNER}/policy", content=b"x" * (LEAST_BODY_BYTES + 1)).status_code == 400
    answer = heard(url, head(f"{TUNER}/policy", content_length=2**26 + 1), until=b"}}")
    assert answer.startswith(b"HTTP/1.1 413 ")


@pytest.mark.parametrize("path", ["/v1/completions", f"{TUNER}/config"])
def test_a_body_in_chunks_is_cut_off_at_the_bound(server, path):
    _, url = server
    chunk = b"%x\r\n%b\r\n" % (2**16, b" " * 2**16)
    # It has no end, so an answer means that the server did not wait for one.
    answer = heard(url, head(path, transfer_encoding="chunked"), *[chunk] * 1000, until=b"}}")
    assert answer.startswith(b"HTTP/1.1 413 ")
    assert b"at most 4194304 are taken here" in answer


def test_a_client_that_sends_all_before_it_listens_hears_the_413(server):
    _, url = server
    answer = httpx.post(f"{url}/v1/completions", content=b" " * 2**24, headers=JSON)
    assert (answer.status_code, answer.json()["error"]["code"]) == (413, "body_too_large")


def test_bodies_that_hold_the_memory_leave_room_for_ordinary_requests_only(runner):
    def asked(size):
        return httpx.post(f"{url}/v1/completions", content=BODY.ljust(size), headers=JSON)

    with serving(runner, bodies_mb=1.0) as (_, url, _):
        address = httpx.URL(url)
        with socket.create_connection((address.host, address.port), timeout=20.0) as half_sent:
            half_sent.sendall(head(f"{TUNER}/policy", content_length=2**26))
            half_sent.sendall(b" " * (2**26 - 2**20))
            wait_for(lambda: asked(2**22).status_code == 503)
            refused = asked(2**22)
            assert (refused.json()["error"]["code"], int(refused.headers["retry-after"]) >= 1) == ("bodies_full", True)
            chunk = b"%x\r\n%b\r\n" % (2**16, b" " * 2**16)
            cut_off = heard(url, head(transfer_encoding="chunked"), *[chunk] * 60, until=b"}}")
            assert cut_off.startswith(b"HTTP/1.1 503 ")
            assert asked(0).status_code == 200
        wait_for(lambda: asked(2**22).status_code == 200)


@pytest.mark.parametrize("sent", [b"", b'{"model"'])
def test_a_body_that_does_not_come_is_not_waited_for(server, sent):
    _, url = server
    answer = heard(url, head(content_length=100), sent, until=b"}}")
    assert answer.startswith(b"HTTP/1.1 408 ")
    assert f"{len(sent)} bytes of the body came in 0.5 s".encode() in answer


def test_an_answer_may_take_longer_than_the_time_for_its_body(server, runner):
    service, url = server
    gate = threading.Event()
    runner.faults[:] = [gate]
    threading.Timer(2 * service.config.body_s, gate.set).start()
    assert httpx.post(f"{url}/v1/completions", content=BODY, headers=JSON, timeout=30.0).status_code == 200


def test_a_compressed_body_is_refused(server):
    _, url = server
    answer = httpx.post(
        f"{url}/v1/completions", content=gzip.compress(BODY), headers={**JSON, "content-encoding": "gzip"}
    )
    assert (answer.status_code, answer.json()["error"]["code"]) == (415, "unsupported_encoding")


@pytest.mark.parametrize("kind", ["text/plain", "application/x-www-form-urlencoded", "multipart/form-data; boundary=x"])
def test_a_body_that_says_it_is_no_json_is_refused(server, kind):
    _, url = server
    answer = httpx.post(f"{url}/v1/completions", content=BODY, headers={"content-type": kind})
    assert (answer.status_code, answer.json()["error"]["param"]) == (415, "content-type")


def test_json_says_that_it_is_json(server):
    _, url = server
    named = {"content-type": "application/json; charset=utf-8"}
    assert httpx.post(f"{url}/v1/completions", content=BODY, headers=named).status_code == 200
    # A page of another origin may send a body without a name and need not ask before.
    answer = httpx.post(f"{url}/v1/completions", content=BODY)
    assert (answer.status_code, answer.json()["error"]["param"]) == (415, "content-type")


@pytest.mark.parametrize("path", ["/v1/completions", "/health", "/metrics", "/docs", "/", "/api/live", "/openapi.json"])
@pytest.mark.parametrize(
    ("headers", "said"),
    [
        ({"host": "evil.example"}, "not this machine"),
        ({"host": "127.0.0.1.evil.example:8000"}, "not this machine"),
        ({"origin": "http://evil.example"}, "may not ask"),
        ({"origin": "null"}, "may not ask"),
    ],
)
def test_without_a_token_no_foreign_page_is_answered(server, path, headers, said):
    service, url = server
    before = service.engine.gauges
    method = "POST" if path.startswith("/v1") else "GET"
    answer = httpx.request(method, f"{url}{path}", content=BODY, headers={**JSON, **headers})
    assert (answer.status_code, answer.json()["error"]["code"]) == (403, "foreign_request")
    assert said in answer.json()["error"]["message"]
    assert service.engine.gauges == before


def test_the_page_of_routes_loads_nothing_from_outside(server):
    _, url = server
    page = httpx.get(f"{url}/docs")
    assert "default-src 'none'" in page.headers["content-security-policy"]
    assert not re.search(r"https?://|[\"'(]//", page.text)
    assert all(path in page.text for path in httpx.get(f"{url}/openapi.json").json()["paths"])
    assert httpx.get(f"{url}/redoc").status_code == 404


def test_a_client_that_does_not_look_up_while_it_sends_hears_the_413(server):
    _, url = server
    address = httpx.URL(url)
    connection = http.client.HTTPConnection(address.host, address.port, timeout=20.0)
    connection.request("POST", "/v1/completions", b" " * 2**25, JSON)
    assert connection.getresponse().status == 413
    connection.close()


@pytest.mark.parametrize(
    ("content", "told"),
    [
        (b'{"model": "tiny", "prompt": "\xe9"}', "utf-8"),
        (b"[" * 100_000, "recursion"),
        (b'{"model": "tiny", "prompt": "x", "seed": ' + b"9" * 5000 + b"}", "digits"),
        (b'{"model": "tiny", "prompt": "x", "temperature": NaN}', "temperature"),
        (b'{"model": "tiny", "prompt": "x", "ttft_ms": Infinity}', "ttft_ms"),
        (b'{"model": "tiny", "prompt": "x", "\\ud800": 1}', "unicode"),
        (b'{"model": "tiny", "prompt": [1, "x", ' + b"1, " * 1_000_000 + b"1]}", "prompt"),
        (b'{"model": "tiny", "prompt": "x", "a": [' + b"{}, " * 900_000 + b"{}]}", "a: no such field"),
        (b"{" + b", ".join(b'"%d": 1' % k for k in range(300_000)) + b"}", "300000 fields"),
    ],
)
def test_json_that_cannot_be_meant_is_refused_and_says_why(server, content, told):
    _, url = server
    answer = httpx.post(f"{url}/v1/completions", content=content, headers=JSON)
    error = answer.json()["error"]
    assert (answer.status_code, error["type"]) == (400, "invalid_request_error")
    assert told in error["message"]
    assert len(answer.content) < 2000


def test_of_a_key_that_comes_twice_the_last_counts(server):
    _, url = server
    content = b'{"model": "other", "prompt": "x", "max_tokens": 1, "model": "tiny"}'
    assert httpx.post(f"{url}/v1/completions", content=content, headers=JSON).status_code == 200


def test_an_old_client_is_answered_and_let_go(server):
    _, url = server
    answer = heard(url, head(version="1.0", content_length=len(BODY)) + BODY, until=b"never said")
    assert answer.startswith(b"HTTP/1.1 200 ")
    assert b'"finish_reason":"length"' in answer


def test_a_client_that_asks_before_it_sends_is_told_to_go_on(server):
    _, url = server
    told = head(content_length=len(BODY), expect="100-continue")
    answer = heard(url, told + BODY, until=b'"usage"')
    assert answer.startswith(b"HTTP/1.1 100 Continue\r\n\r\nHTTP/1.1 200 ")
    too_large = head(content_length=LEAST_BODY_BYTES + 1, expect="100-continue")
    assert heard(url, too_large).startswith(b"HTTP/1.1 413 ")


def test_requests_in_a_row_on_one_connection_are_answered_in_their_order(server):
    service, url = server
    bodies = [BODY.replace(b'"max_tokens": 3', b'"max_tokens": %d' % length) for length in (4, 2, 3)]
    asked = b"".join(head(content_length=len(body)) + body for body in bodies)
    answer = heard(url, asked, until=b'"total_tokens":4}')
    places = [answer.index(b'"completion_tokens":%d' % length) for length in (4, 2, 3)]
    assert places == sorted(places)
    wait_for(lambda: is_empty(service))


@pytest.mark.parametrize("path", ["/health", "/ready", "/metrics", "/", "/v1/models", f"{TUNER}/status"])
def test_whoever_asks_for_the_head_alone_gets_it(server, path):
    _, url = server
    answer = httpx.head(f"{url}{path}")
    assert (answer.status_code, answer.content) == (200, b"")
    assert answer.headers["content-type"] == httpx.get(f"{url}{path}").headers["content-type"]


@pytest.mark.parametrize("method", ["HEAD", "GET", "PUT", "PATCH", "DELETE", "OPTIONS"])
def test_other_methods_are_told_which_is_meant(server, method):
    _, url = server
    answer = httpx.request(method, f"{url}/v1/completions")
    assert (answer.status_code, answer.headers["allow"]) == (405, "POST")
    answer = httpx.request("PATCH", f"{url}{TUNER}/shadow")
    assert (answer.status_code, answer.headers["allow"]) == (405, "POST, DELETE")


def test_a_slash_too_many_is_forgiven_clients_that_follow(server):
    _, url = server
    answer = httpx.post(f"{url}/v1/completions/", content=BODY, headers=JSON, follow_redirects=True)
    assert answer.status_code == 200


def test_paths_that_do_not_exist_are_told_in_the_shape_of_errors(server):
    _, url = server
    answer = httpx.get(f"{url}/v2/%00/x")
    assert (answer.status_code, answer.json()["error"]["type"]) == (404, "not_found_error")


def test_a_stream_is_not_to_be_buffered_on_its_way(server):
    _, url = server
    answer = httpx.post(f"{url}/v1/completions", json={**json.loads(BODY), "stream": True})
    assert answer.headers["content-type"].startswith("text/event-stream")
    assert (answer.headers["cache-control"], answer.headers["x-accel-buffering"]) == ("no-cache", "no")


def test_the_document_tells_the_bounds(server):
    _, url = server
    paths = httpx.get(f"{url}/openapi.json").json()["paths"]
    assert "4194304 bytes" in paths["/v1/completions"]["post"]["responses"]["413"]["description"]
    assert "67108864 bytes" in paths[f"{TUNER}/policy"]["post"]["responses"]["413"]["description"]
    posts = [methods["post"]["responses"] for methods in paths.values() if "post" in methods]
    assert all({"408", "413", "415", "503"} <= set(responses) for responses in posts)


def test_a_good_policy_is_still_taken(server):
    _, url = server
    assert httpx.post(f"{url}{TUNER}/policy", content=make_policy_bytes()).status_code == 200
    assert httpx.delete(f"{url}{TUNER}/policy").json()["withdrawn"]
