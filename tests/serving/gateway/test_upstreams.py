"""A gateway before several upstreams that speak as scripts say: what is tried elsewhere, and who is left alone."""

import threading

import pytest

httpx = pytest.importorskip("httpx")
pytest.importorskip("httptools")
pytest.importorskip("uvicorn")

from gateway_fleets import before_scripts, gateway_status, outcomes, upstreams  # noqa: E402
from gateway_scripts import (  # noqa: E402
    ASKED,
    DONE,
    OK,
    STREAM,
    STREAMED,
    TOKEN,
    WHOLE,
    answered,
    chunked,
    post,
    saying,
    served_by,
)
from gateway_servers import wait_until  # noqa: E402

HEAD_ONLY = STREAM + b"Transfer-Encoding: chunked\r\n\r\n"
ROLE_ONLY = HEAD_ONLY + chunked(b'data: {"choices":[{"delta":{"role":"assistant"}}]}\n\n')[:-5]
BEGUN = HEAD_ONLY + chunked(TOKEN)[:-5]
ERROR_EVENT = HEAD_ONLY + chunked(b'data: {"error": {"message": "the engine is dead"}}\n\n', DONE)


def breaking_off(answer):
    """Says so much on every connection, and closes it."""

    def script(connection, request):
        connection.sendall(answer)
        return False

    return script


FAILURES = {
    "nothing": b"",
    "no HTTP": b"SSH-2.0\r\n",
    "a head and no more": HEAD_ONLY,
    "a role and no more": ROLE_ONLY,
    "an error in the stream": ERROR_EVENT,
    "half a document": b"HTTP/1.1 200 OK\r\nContent-Type: application/json\r\nContent-Length: 99\r\n\r\n{",
    "500": answered(500),
    "502": answered(502),
    "503": answered(503),
    "504": answered(504),
    "429": answered(429),
}


@pytest.mark.parametrize("answer", FAILURES.values(), ids=FAILURES)
def test_what_has_sent_nothing_is_tried_elsewhere(answer):
    fine, heard = saying(STREAMED)
    with before_scripts(breaking_off(answer), fine, router="round-robin") as (gateway, _, urls):
        got = post(gateway)
        assert (got.status_code, served_by(got)) == (200, urls[1])
        assert got.content == TOKEN + DONE
        assert len(heard) == 1
        assert gateway_status(gateway)["retries"] == 1
        wait_until(lambda: outcomes(gateway, "0") == {"finished": 1})  # each request counts once


DOCUMENT = b"HTTP/1.1 200 OK\r\nConnection: close\r\nContent-Type: %b\r\n\r\n%b"
ENDED_AT_ONCE = b'{"choices":[{"message":{"content":""},"finish_reason":"stop"}],"usage":{"completion_tokens":1}}'
ANSWERS = {
    "a model that ends at once": (HEAD_ONLY + chunked(b"data: " + ENDED_AT_ONCE + b"\n\n", DONE), "finished"),
    "... in an answer that comes whole": (DOCUMENT % (b"application/json", ENDED_AT_ONCE), "finished"),
    "JSON that is called text": (DOCUMENT % (b"text/plain", b'{"choices":[{"text":"a"}]}'), "finished"),
    "what is packed in a way that is not read": (
        DOCUMENT % (b"application/json\r\nContent-Encoding: br", b"packed"),
        "unread",
    ),
    "a response that is made in the background": (
        DOCUMENT % (b"application/json", b'{"object":"response","status":"queued","output":[]}'),
        "unread",
    ),
}


@pytest.mark.parametrize(("answer", "ended"), ANSWERS.values(), ids=ANSWERS)
def test_an_answer_that_says_nothing_here_is_not_asked_for_again(answer, ended):
    first, second = breaking_off(answer), saying(STREAMED)
    with before_scripts(first, second[0], router="round-robin", breaker_failures=1) as (gateway, _, urls):
        asked = ASKED | {"stream": answer.startswith(HEAD_ONLY)}
        with httpx.stream("POST", f"{gateway}/v1/completions", json=asked, trust_env=False) as got:
            assert all(piece in answer for piece in b"".join(got.iter_raw()).splitlines())
            assert (got.status_code, served_by(got)) == (200, urls[0])
        assert (second[1], gateway_status(gateway)["retries"]) == ([], 0)
        wait_until(lambda: outcomes(gateway, "0") == {ended: 1})
        assert upstreams(gateway)[0]["breaker"] == "closed"


def test_a_stream_that_cannot_be_read_here_comes_as_it_is_said():
    packed = STREAM + b"Content-Encoding: zstd\r\nTransfer-Encoding: chunked\r\n\r\n" + chunked(b"first")[:-5]
    goes_on = threading.Event()

    def script(connection, request):
        connection.sendall(packed)
        goes_on.wait(10)
        return False

    with (
        before_scripts(script, saying(STREAMED)[0], router="round-robin") as (gateway, _, _),
        httpx.stream("POST", f"{gateway}/v1/completions", json=ASKED, trust_env=False) as got,
    ):
        assert next(got.iter_raw()) == b"first"
        goes_on.set()


def test_a_stream_that_has_begun_is_not_repeated():
    fine, heard = saying(STREAMED)
    with before_scripts(breaking_off(BEGUN), fine, router="round-robin") as (gateway, _, _):
        got = post(gateway)
        assert got.content.startswith(TOKEN)
        assert b"upstream_broke_off" in got.content
        assert (heard, gateway_status(gateway)["retries"]) == ([], 0)


@pytest.mark.parametrize("status", [400, 401, 404, 422])
def test_what_is_the_request_s_own_fault_is_not_tried_elsewhere(status):
    first, _ = saying(answered(status, b'{"error": "yours"}'))
    second, heard = saying(STREAMED)
    with before_scripts(first, second, router="round-robin", breaker_failures=1) as (gateway, _, _):
        got = post(gateway)
        assert (got.status_code, got.json()) == (status, {"error": "yours"})
        assert heard == []
        assert upstreams(gateway)[0]["breaker"] == "closed"


def test_who_was_tried_everywhere_hears_the_last_failure():
    scripts = [saying(answered(500, b'{"error": "%d"}' % number))[0] for number in range(4)]
    with before_scripts(*scripts, router="round-robin", retries=2) as (gateway, _, _):
        got = post(gateway)
        assert (got.status_code, got.json()) == (500, {"error": "2"})
        wait_until(lambda: outcomes(gateway, "0") == {"failed": 1})


def test_a_breaker_keeps_requests_from_who_fails():
    failing, heard = saying(answered(500))
    fine, _ = saying(STREAMED)
    settings = {"router": "round-robin", "breaker_failures": 2, "breaker_s": 1000.0}
    with before_scripts(failing, fine, **settings) as (gateway, _, _):
        assert all(post(gateway).status_code == 200 for _ in range(8))
        assert len(heard) == 2
        assert (upstreams(gateway)[0]["breaker"], upstreams(gateway)[0]["breaker_opened"]) == ("open", 1)


def test_a_breaker_lets_one_try_once_its_time_is_up_and_closes_when_it_is_served():
    answers = [answered(500)]

    def script(connection, request):
        connection.sendall(answers[0])
        return True

    fine, _ = saying(STREAMED)
    settings = {"router": "round-robin", "breaker_failures": 1, "breaker_s": 0.2}
    with before_scripts(script, fine, **settings) as (gateway, _, urls):
        assert served_by(post(gateway)) == urls[1]
        answers[0] = STREAMED
        wait_until(lambda: upstreams(gateway)[0]["breaker"] == "half-open")
        wait_until(lambda: served_by(post(gateway)) == urls[0])
        wait_until(lambda: upstreams(gateway)[0]["breaker"] == "closed")


def test_who_fails_its_health_checks_is_taken_out_and_back_in():
    well = threading.Event()

    def script(connection, request):
        connection.sendall(STREAMED if b"/v1/" in request[0] else answered(200 if well.is_set() else 500))
        return True

    fine, _ = saying(STREAMED)
    with before_scripts(script, fine, router="round-robin", health_s=0.05) as (gateway, _, urls):
        wait_until(lambda: upstreams(gateway)[0]["suspected"])
        assert "500" in upstreams(gateway)[0]["suspected_why"]
        assert {served_by(post(gateway)) for _ in range(6)} == {urls[1]}
        well.set()
        wait_until(lambda: not upstreams(gateway)[0]["suspected"])
        assert {served_by(post(gateway)) for _ in range(6)} == set(urls)


def test_when_nobody_is_well_everybody_is_tried_all_the_same():
    def script(connection, request):
        connection.sendall(STREAMED if b"/v1/" in request[0] else answered(500))
        return True

    with before_scripts(script, script, health_s=0.05) as (gateway, _, _):
        wait_until(lambda: all(one["suspected"] for one in upstreams(gateway)))
        assert post(gateway).status_code == 200


def test_who_has_no_room_says_so_though_others_are_dead():
    release = threading.Event()

    def slow(connection, request):
        release.wait(20)
        connection.sendall(STREAMED)
        return True

    specs = [{}, {"version": 1}]
    with before_scripts(breaking_off(b""), slow, specs=specs, router="round-robin", most_queued=1) as (gateway, _, _):
        first = threading.Thread(target=post, args=(gateway,), kwargs={"headers": {"x-batchpilot-version": "1"}})
        first.start()
        wait_until(lambda: upstreams(gateway)[1]["running"] == 1)
        for _ in range(2):
            refused = post(gateway)
            assert (refused.status_code, refused.json()["error"]["code"]) == (503, "refused_on_arrival")
        release.set()
        first.join()


def test_other_requests_are_repeated_only_where_that_is_harmless():
    broken, _ = saying(b"")
    fine, heard = saying(answered(200, b'{"object": "list"}'))
    with before_scripts(broken, fine, router="round-robin") as (gateway, _, _):
        assert httpx.get(f"{gateway}/v1/models", trust_env=False).json() == {"object": "list"}
        posted = httpx.post(f"{gateway}/v1/embeddings", json={"input": "x"}, trust_env=False)
        assert posted.status_code in (200, 502)
    assert [head.split(b" ")[0] for head, _ in heard].count(b"POST") == (posted.status_code == 200)


def test_whole_answers_pass_as_they_came():
    script, _ = saying(WHOLE)
    with before_scripts(script, script) as (gateway, _, _):
        got = post(gateway, json={**ASKED, "stream": False})
        assert got.content == WHOLE.partition(b"\r\n\r\n")[2]
    assert OK in WHOLE
