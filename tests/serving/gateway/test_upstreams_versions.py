"""Versions among a gateway's upstreams: asked for, given by an experiment, rolled out."""

import pytest

httpx = pytest.importorskip("httpx")
pytest.importorskip("httptools")
pytest.importorskip("uvicorn")

from gateway_fleets import before_scripts, gateway_status, outcomes  # noqa: E402
from gateway_scripts import ASKED, STREAMED, answered, post, saying  # noqa: E402
from gateway_servers import wait_until  # noqa: E402

from batchpilot.serving.gateway.upstreams.canary import FEWEST_ENDED, SHARES  # noqa: E402
from batchpilot.serving.gateway.upstreams.experiment import place  # noqa: E402

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
