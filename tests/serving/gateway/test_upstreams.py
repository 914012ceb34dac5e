"""A gateway before several upstreams that speak as scripts say: where requests go, and what is tried elsewhere."""

import threading

import pytest

httpx = pytest.importorskip("httpx")
pytest.importorskip("httptools")
pytest.importorskip("uvicorn")

from gateway_fleets import before_scripts, gateway_status, upstreams  # noqa: E402
from gateway_scripts import ASKED, OK, STREAM, WHOLE, chunked, post, saying  # noqa: E402
from gateway_servers import wait_until  # noqa: E402

from batchpilot.fleet import RateLimit  # noqa: E402
from batchpilot.serving.gateway.upstreams.canary import FEWEST_ENDED, SHARES  # noqa: E402
from batchpilot.serving.gateway.upstreams.experiment import place  # noqa: E402

TOKEN = b'data: {"choices":[{"text":"a"}]}\n\n'
DONE = b"data: [DONE]\n\n"
STREAMED = STREAM + b"Transfer-Encoding: chunked\r\n\r\n" + chunked(TOKEN, DONE)
HEAD_ONLY = STREAM + b"Transfer-Encoding: chunked\r\n\r\n"
ROLE_ONLY = HEAD_ONLY + chunked(b'data: {"choices":[{"delta":{"role":"assistant"}}]}\n\n')[:-5]
BEGUN = HEAD_ONLY + chunked(TOKEN)[:-5]
ERROR_EVENT = HEAD_ONLY + chunked(b'data: {"error": {"message": "the engine is dead"}}\n\n', DONE)


def answered(status, body=b"{}"):
    return b"HTTP/1.1 %d Said\r\nContent-Type: application/json\r\nContent-Length: %d\r\n\r\n%b" % (
        status,
        len(body),
        body,
    )


def breaking_off(answer):
    """Says so much on every connection, and closes it."""

    def script(connection, request):
        connection.sendall(answer)
        return False

    return script


def served_by(answer):
    return answer.headers["x-batchpilot-upstream"]


def outcomes(gateway, version):
    """How a version's requests ended; the last is counted a moment after its client has everything."""
    return gateway_status(gateway)["variants"][version]["ended"]


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


def test_weights_are_kept():
    scripts = [saying(STREAMED) for _ in range(2)]
    specs = [{"weight": 3.0}, {"weight": 1.0}]
    with before_scripts(*(script for script, _ in scripts), specs=specs, router="weighted") as (gateway, _, _):
        for _ in range(12):
            post(gateway)
        assert [len(heard) for _, heard in scripts] == [9, 3]


def test_requests_with_one_beginning_go_where_it_was_computed():
    scripts = [saying(STREAMED) for _ in range(3)]
    with before_scripts(*(script for script, _ in scripts), router="prefix") as (gateway, _, _):
        homes = {}
        for turn in range(4):
            for user in "abc":
                got = post(gateway, json={**ASKED, "prompt": user * 2000 + f" turn {turn}"})
                homes.setdefault(user, set()).add(served_by(got))
        assert all(len(home) == 1 for home in homes.values())
        assert len(set.union(*homes.values())) == 3


def test_a_user_stays_at_one_upstream():
    scripts = [saying(STREAMED)[0] for _ in range(3)]
    with before_scripts(*scripts, router="user-hash") as (gateway, _, urls):
        homes = [
            {served_by(post(gateway, json={**ASKED, "user": f"user {user}"})) for _ in range(3)} for user in range(30)
        ]
        assert all(len(home) == 1 for home in homes)
        assert set.union(*homes) == set(urls)


VERSIONS = [{"version": 1}, {"version": 2}]


def test_a_version_that_is_asked_for_is_served_or_nothing():
    one, _ = saying(answered(500))
    two, _ = saying(STREAMED)
    with before_scripts(one, two, specs=VERSIONS) as (gateway, _, _):
        asked = [post(gateway, headers={"x-batchpilot-version": version}) for version in "12"]
        assert [got.status_code for got in asked] == [500, 200]
        assert asked[1].headers["x-batchpilot-version"] == "2"
        unknown = post(gateway, headers={"x-batchpilot-version": "3"})
        assert (unknown.status_code, unknown.json()["error"]["code"]) == (400, "unknown_version")
        assert "1, 2" in unknown.json()["error"]["message"]


def test_an_experiment_gives_each_user_a_version_and_counts_by_it():
    scripts = [saying(STREAMED)[0] for _ in range(2)]
    with before_scripts(*scripts, specs=VERSIONS, experiment={1: 0.5, 2: 0.5}) as (gateway, _, _):
        had = [
            {post(gateway, headers={"x-user": f"user {user}"}).headers["x-batchpilot-version"] for _ in range(2)}
            for user in range(20)
        ]
        assert all(len(versions) == 1 for versions in had)
        for version in "12":
            wait_until(lambda version=version: outcomes(gateway, version) == {"finished": 2 * had.count({version})})
        told = gateway_status(gateway)["variants"]
        for version in "12":
            assert told[version]["kept_promises"] == 2 * had.count({version})
        page = httpx.get(f"{gateway}/metrics", trust_env=False).text
        assert 'variant_requests_total{version="2",outcome="finished"}' in page


def canary(gateway, body):
    return httpx.post(f"{gateway}/gateway/canary", json=body, trust_env=False)


EARLY = [f"user {number}" for number in range(400) if place(f"user {number}") < SHARES[0]]
"""Users whom a roll-out reaches first."""
LATE = [f"user {number}" for number in range(40) if place(f"user {number}") > SHARES[0]]


def test_a_roll_out_that_fails_goes_back_by_itself():
    old, _ = saying(STREAMED)
    new, heard = saying(answered(500))
    with before_scripts(old, new, specs=VERSIONS, retries=0, breaker_failures=99) as (gateway, _, _):
        assert canary(gateway, {"version": 2, "from": 1}).json()["share"] == SHARES[0]
        with httpx.Client(trust_env=False, timeout=20) as client:
            for user in LATE + EARLY[:10]:
                client.post(f"{gateway}/v1/completions", json=ASKED, headers={"x-user": user})
            wait_until(lambda: gateway_status(gateway)["canary"]["verdict"] == "rolled back")
            tried = len(heard)
            assert tried < 10
            for user in EARLY[:10]:
                again = client.post(f"{gateway}/v1/completions", json=ASKED, headers={"x-user": user})
                assert again.status_code == 200
            assert len(heard) == tried


def test_a_roll_out_that_works_reaches_everybody():
    scripts = [saying(STREAMED)[0] for _ in range(2)]
    with before_scripts(*scripts, specs=VERSIONS, canary=(1, 2), ladder_s=0.001) as (gateway, _, _):
        with httpx.Client(trust_env=False, timeout=20) as client:
            for user in EARLY[:1] * (len(SHARES) * FEWEST_ENDED + 1):
                client.post(f"{gateway}/v1/completions", json=ASKED, headers={"x-user": user})
        wait_until(lambda: gateway_status(gateway)["canary"]["verdict"] == "promoted")
        assert post(gateway, headers={"x-user": LATE[0]}).headers["x-batchpilot-version"] == "2"


def test_what_is_no_roll_out_is_refused_in_words():
    scripts = [saying(STREAMED)[0] for _ in range(2)]
    with before_scripts(*scripts, specs=VERSIONS) as (gateway, _, _):
        for body, status in (
            ({"version": None}, 409),
            ({"version": 3, "from": 1}, 400),
            ({"version": 1, "from": 1}, 400),
            ({"version": True, "from": 2}, 400),
            ({"version": 2}, 400),
            ([], 400),
        ):
            assert canary(gateway, body).status_code == status
        assert canary(gateway, {"version": 2, "from": 1}).status_code == 200
        assert canary(gateway, {"version": 2, "from": 1}).status_code == 409
        assert canary(gateway, {"version": None}).json()["verdict"] == "rolled back"


def test_a_key_beyond_its_rate_is_told_when_to_come_again_and_others_are_served():
    script, heard = saying(STREAMED)
    with before_scripts(script, script, rate_limit=RateLimit(1.0, 150.0)) as (gateway, _, _):
        mine = [post(gateway, headers={"authorization": "Bearer mine"}) for _ in range(3)]
        assert [got.status_code for got in mine] == [200, 429, 429]
        assert int(mine[1].headers["retry-after"]) > 1
        assert post(gateway, headers={"authorization": "Bearer other"}).status_code == 200
        assert len(heard) == 2
        assert gateway_status(gateway)["rate_limited"] == 2


def test_a_smaller_model_answers_when_the_one_asked_for_cannot_and_a_header_says_so():
    dead, _ = saying(b"")
    small, heard = saying(STREAMED)
    with before_scripts(dead, small, specs=[{}, {"tier": 1, "model": "small"}]) as (gateway, _, _):
        got = post(gateway)
        assert (got.status_code, got.headers["x-batchpilot-degraded"]) == (200, "tier-1")
        assert b'"model": "small"' in heard[0][1] or b'"model":"small"' in heard[0][1]


def test_each_upstream_has_its_own_key(monkeypatch):
    monkeypatch.setenv("KEY_OF_THE_SECOND", "secret")
    scripts = [saying(STREAMED) for _ in range(2)]
    specs = [{}, {"api_key_env": "KEY_OF_THE_SECOND"}]
    with before_scripts(*(script for script, _ in scripts), specs=specs, router="round-robin") as (gateway, _, _):
        for _ in range(2):
            post(gateway, headers={"authorization": "Bearer client"})
    (first,), (second,) = (heard for _, heard in scripts)
    assert b"Bearer client" in first[0]
    assert b"Bearer secret" in second[0]
    assert b"client" not in second[0]


def test_a_model_is_asked_of_who_lists_it():
    def listing(model):
        heard = []

        def script(connection, request):
            if b"/v1/models" in request[0]:
                connection.sendall(answered(200, b'{"data": [{"id": "%b"}]}' % model))
            elif b"/v1/" in request[0]:
                heard.append(request)
                connection.sendall(STREAMED)
            else:
                connection.sendall(answered(404))
            return True

        return script, heard

    (text, of_text), (vision, of_vision) = listing(b"text"), listing(b"vision")
    with before_scripts(text, vision, router="round-robin", poll_s=0.05, own_engines=True) as (gateway, app, _):
        wait_until(lambda: all(member.lanes.models for member in app._members))
        for _ in range(4):
            assert post(gateway, json={**ASKED, "model": "vision"}).status_code == 200
    assert (len(of_text), len(of_vision)) == (0, 4)


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
