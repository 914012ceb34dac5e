"""Which of several upstreams a gateway chooses, for whom, and with whose key."""

import pytest

httpx = pytest.importorskip("httpx")
pytest.importorskip("httptools")
pytest.importorskip("uvicorn")

from gateway_fleets import before_scripts, gateway_status  # noqa: E402
from gateway_scripts import ASKED, STREAMED, answered, post, saying, served_by  # noqa: E402
from gateway_servers import wait_until  # noqa: E402

from batchpilot.fleet import RateLimit  # noqa: E402


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
