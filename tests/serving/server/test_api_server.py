"""The tuner API over HTTP: SPEC 1's fields, who may change what, and that nonsense changes nothing."""

import json
import os
import signal
import subprocess
import sys
import threading

import pytest

pytest.importorskip("torch")
pytest.importorskip("fastapi")
pytest.importorskip("uvicorn")
httpx = pytest.importorskip("httpx")

from hypothesis import given, settings  # noqa: E402
from hypothesis import strategies as st  # noqa: E402
from policy_samples import make_policy_bytes  # noqa: E402
from running_server import TUNER, is_empty, serving, wait_for  # noqa: E402

from batchpilot.serving.server.authorisation import check_binding  # noqa: E402

TOKEN = "a token of many letters"


@pytest.fixture(scope="module")
def server(runner):
    with serving(runner, tuner="dynamic") as (service, url, _):
        yield service, url + TUNER


def test_the_status_has_the_documented_fields(server):
    _, url = server
    status = httpx.get(f"{url}/status").json()
    assert {
        "enabled",
        "phase",
        "current_batch_size",
        "best_batch_size",
        "best_score",
        "is_stabilized",
        "consecutive_failures",
        "throughput",
        "gpu_utilization",
        "memory_utilization",
        "processing_time_ms",
        "gpu_model",
        "gpu_memory_mb",
    } <= set(status)


@pytest.mark.filterwarnings("ignore::batchpilot.configs.errors.ConfigWarning")
def test_the_configuration_is_answered_changed_and_refused_as_a_whole(server):
    _, url = server
    before = httpx.get(f"{url}/config").json()
    refused = httpx.post(f"{url}/config", json={"growth_coefficient": 0.3, "max_batch_size": -1})
    assert (refused.status_code, refused.json()["error"]["param"]) == (400, "max_batch_size")
    assert httpx.get(f"{url}/config").json() == before
    changed = httpx.post(f"{url}/config", json={"growth_coefficient": 0.45, "max_batch_size": 32}).json()
    assert (changed["growth_coefficient"], changed["max_batch_size"]) == (0.45, 32)
    assert (changed["success"], changed["new_config"]) == (True, httpx.get(f"{url}/config").json())
    assert "growth_coefficient" in changed["message"]
    assert any("max_batch_size" in warning for warning in changed["warnings"])
    assert httpx.post(f"{url}/config", json=before).status_code == 200


def test_what_is_learned_of_step_latency_is_believed_as_far_as_the_stage_says(runner):
    with serving(runner, tuner="guarded-adaptive") as (_, url, _server):
        assert httpx.get(f"{url}{TUNER}/status").json()["latency_stage"] == "full"
        wrong = httpx.post(f"{url}{TUNER}/latency-stage", json={"stage": "shadw"})
        assert (wrong.status_code, wrong.json()["error"]["param"]) == (400, "stage")
        answer = httpx.post(f"{url}{TUNER}/latency-stage", json={"stage": "partial", "share": 0.25})
        assert (answer.status_code, answer.json()["stage"]) == (200, "partial")
        assert httpx.get(f"{url}{TUNER}/status").json()["latency_stage"] == "partial"
        assert httpx.post(f"{url}{TUNER}/strategy", json={"strategy": "model-based"}).status_code == 200
        assert httpx.get(f"{url}{TUNER}/status").json()["latency_stage"] == "partial"
        assert "batchpilot:latency_healthy 1.0" in httpx.get(f"{url}/metrics").text
        httpx.post(f"{url}{TUNER}/strategy", json={"strategy": "static-32"})
        assert httpx.post(f"{url}{TUNER}/latency-stage", json={"stage": "full"}).status_code == 409
        assert "latency_healthy" not in httpx.get(f"{url}/metrics").text


def test_a_batch_size_by_hand_comes_into_force(server):
    service, url = server
    answer = httpx.post(f"{url}/batch-size", json={"batch_size": 32}).json()
    assert (answer["success"], answer["batch_size"], "32" in answer["message"]) == (True, 32, True)
    wait_for(lambda: service.session.limits().batch_size == 32)
    refused = httpx.post(f"{url}/batch-size", json={"batch_size": 100_000})
    assert (refused.status_code, refused.json()["error"]["param"]) == (400, "batch_size")
    assert refused.json()["success"] is False
    assert refused.json()["message"] == refused.json()["error"]["message"]


def test_switches_probes_and_resets(server):
    service, url = server
    assert httpx.post(f"{url}/strategy", json={"strategy": "static-8"}).status_code == 200
    wait_for(lambda: service.session.limits().batch_size == 8)
    assert httpx.post(f"{url}/probe").status_code == 409
    wrong = httpx.post(f"{url}/strategy", json={"strategy": "static-8", "track": "limit"})
    assert (wrong.status_code, wrong.json()["error"]["param"]) == (400, "track")
    unknown = httpx.post(f"{url}/strategy", json={"strategy": "hybrd"})
    assert (unknown.status_code, "hybrid" in unknown.json()["error"]["message"]) == (400, True)
    assert httpx.post(f"{url}/strategy", json={"strategy": "hybird"}).json()["strategy"] == "hybrid"
    assert httpx.post(f"{url}/strategy", json={"strategy": "dynamic"}).status_code == 200
    assert httpx.post(f"{url}/probe").json()["phase"] == "INITIAL_PROBING"
    reset = httpx.post(f"{url}/reset").json()
    assert (reset["success"], reset["phase"], reset["current_batch_size"]) == (True, "SAFE_FALLBACK", 1)
    assert httpx.get(f"{url}/decisions").json()[-1]["after"]["batch_size"] >= 1


def test_a_policy_is_uploaded_tried_and_withdrawn(server):
    _, url = server
    good = httpx.post(f"{url}/policy", content=make_policy_bytes(), params={"share": 0.5}).json()
    assert good["track"] == "limits"
    assert httpx.get(f"{url}/status").json()["trial"]["verdict"] == "running"
    corrupt = httpx.post(f"{url}/policy", content=make_policy_bytes()[:-9])
    assert (corrupt.status_code, corrupt.json()["error"]["param"]) == (400, "policy")
    assert httpx.get(f"{url}/status").json()["trial"]["verdict"] == "running"
    assert httpx.delete(f"{url}/policy").json()["withdrawn"] is True


def test_an_adviser_is_set_and_removed(server):
    _, url = server
    assert httpx.post(f"{url}/shadow", json={"strategy": "aimd"}).json()["shadow"] == "aimd"
    assert httpx.get(f"{url}/status").json()["shadow"]["advice"]["batch_size"] >= 1
    assert httpx.delete(f"{url}/shadow").json()["shadow"] is None


def test_a_disabled_tuner_answers_that_it_cannot_obey(server):
    service, url = server
    httpx.post(f"{url}/strategy", json={"strategy": "dynamic"})
    httpx.post(f"{url}/batch-size", json={"batch_size": 20})
    httpx.post(f"{url}/config", json={"enabled": False})
    for path, body in (("batch-size", {"batch_size": 32}), ("probe", None), ("reset", None)):
        answer = httpx.post(f"{url}/{path}", json=body)
        assert (answer.status_code, answer.json()["success"]) == (409, False)
        assert "disabled" in answer.json()["message"]
        assert service.session.limits().batch_size == 20
    assert httpx.post(f"{url}/config", json={"enabled": True}).json()["new_config"]["enabled"] is True


def test_the_document_names_every_route_and_the_token(server):
    _, url = server
    document = httpx.get(url.removesuffix(TUNER) + "/openapi.json").json()
    paths = document["paths"]
    for path in ("/v1/completions", "/v1/chat/completions", "/v1/models", "/metrics", "/health", "/ready"):
        assert path in paths
    for path in ("status", "config", "reset", "batch-size", "probe", "strategy", "policy", "shadow", "decisions"):
        assert f"{TUNER}/{path}" in paths
    assert paths[f"{TUNER}/reset"]["post"]["security"] == [{}, {"HTTPBearer": []}]
    config = paths[f"{TUNER}/config"]["post"]["requestBody"]["content"]["application/json"]["schema"]
    assert "growth_coefficient" in config["properties"]
    assert "hybrid" in document["components"]["schemas"]["StrategyBody"]["properties"]["strategy"]["enum"]
    operations = [operation for methods in paths.values() for operation in methods.values()]
    answers = {code for operation in operations for code in operation["responses"]}
    assert "422" not in answers


JSON = st.recursive(
    st.none() | st.booleans() | st.integers(-(2**70), 2**70) | st.floats() | st.text(max_size=8),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=8), inner, max_size=3),
    max_leaves=6,
)
KEYS = st.sampled_from(["batch_size", "strategy", "track", "min_batch_size", "max_batch_size", "enabled", "other"])
BODIES = JSON | st.dictionaries(KEYS, JSON, max_size=3)
CHANGES = st.sampled_from(["config", "batch-size", "strategy", "shadow", "policy", "reset/x", "probe?x=1"])


@settings(max_examples=150, deadline=None)
@given(CHANGES, BODIES)
def test_nonsense_is_refused_and_changes_nothing(server, path, body):
    service, url = server

    def state():
        staged = service.control.staged
        return service.control.config, staged.decider, staged.candidate, staged.shadow, staged.ask()

    before = state()
    # Python's JSON has Infinity and NaN, which httpx would not send and others do.
    headers = {"content-type": "application/json"}
    answer = httpx.post(f"{url}/{path}", content=json.dumps(body), headers=headers)
    assert answer.status_code < 500, answer.text
    if answer.status_code >= 400:
        assert answer.json()["error"]["message"]
        assert state() == before


@settings(max_examples=60, deadline=None)
@given(
    st.binary(max_size=200), st.sampled_from(["application/json", "text/plain", "application/octet-stream"]), CHANGES
)
def test_bytes_that_mean_nothing_are_refused(server, content, kind, path):
    _, url = server
    answer = httpx.post(f"{url}/{path}", content=content, headers={"content-type": kind})
    assert answer.status_code < 500, answer.text


FIELDS = st.sampled_from(
    [
        "max_tokens",
        "temperature",
        "top_p",
        "seed",
        "stop",
        "stream",
        "stream_options",
        "user",
        "n",
        "slo",
        "ttft_ms",
        "tpot_ms",
        "priority",
        "prompt",
    ]
)


@settings(max_examples=100, deadline=None)
@given(st.dictionaries(FIELDS, JSON | st.integers(-1, 9), max_size=4))
def test_no_completion_breaks_the_server(server, changes):
    service, url = server
    body = {"model": "tiny", "prompt": "x", "max_tokens": 2, "timeout_s": 20.0, **changes}
    headers = {"content-type": "application/json"}
    where = url.removesuffix(TUNER) + "/v1/completions"
    answer = httpx.post(where, content=json.dumps(body), headers=headers, timeout=30.0)
    assert answer.status_code in (200, 400), answer.text
    wait_for(lambda: is_empty(service))


def test_changes_need_the_token_where_there_is_one(runner):
    with serving(runner, token=TOKEN) as (_, url, _server):
        url += TUNER
        assert httpx.get(f"{url}/status").status_code == 200
        for method, path in (("POST", "reset"), ("POST", "config"), ("POST", "policy"), ("DELETE", "shadow")):
            missing = httpx.request(method, f"{url}/{path}", json={})
            wrong = httpx.request(method, f"{url}/{path}", json={}, headers={"Authorization": "Bearer guess"})
            assert (missing.status_code, wrong.status_code) == (401, 403)
        assert httpx.post(f"{url}/reset", headers={"Authorization": f"Bearer {TOKEN}"}).status_code == 200
        document = httpx.get(url.removesuffix(TUNER) + "/openapi.json").json()
        assert document["paths"][f"{TUNER}/reset"]["post"]["security"] == [{"HTTPBearer": []}]


@pytest.mark.parametrize("headers", [{"Origin": "http://evil.example"}, {"Host": "evil.example"}, {"Origin": "null"}])
def test_without_a_token_no_foreign_page_may_change_anything(server, headers):
    _, url = server
    assert httpx.post(f"{url}/reset", headers=headers).status_code == 403


@pytest.mark.parametrize("host", ["0.0.0.0", "::", "192.168.0.7", "server.example"])
def test_without_a_token_only_this_machine_is_served(host):
    with pytest.raises(ValueError, match="token"):
        check_binding(host, None)
    check_binding(host, TOKEN)


@pytest.mark.parametrize("host", ["127.0.0.1", "localhost", "::1", "127.8.9.1"])
def test_this_machine_needs_no_token(host):
    assert check_binding(host, None) is None


def test_a_short_token_is_refused():
    with pytest.raises(ValueError, match="16"):
        check_binding("127.0.0.1", "short")


@pytest.fixture
def command():
    """The server as a process of its own; yields it and its address."""
    arguments = ["serve", "--model", "tiny-llama", "--port", "0", "--kv-tokens", "8192", "--threads", "1"]
    arguments += ["--grace", "10", "--tuner", "static-32"]
    process = subprocess.Popen(
        [sys.executable, "-m", "batchpilot.runners.main", *arguments],
        stdout=subprocess.PIPE,
        text=True,
        env={**os.environ, "OMP_NUM_THREADS": "1"},
    )
    try:
        line = next(line for line in process.stdout if "http://" in line)
        yield process, line.split(" on ")[1].split(",")[0]
    finally:
        process.kill()
        process.wait()
        process.stdout.close()


def test_the_command_serves_and_a_sigterm_under_load_answers_everybody(command):
    process, url = command
    codes = []

    def ask():
        body = {"model": "tiny-llama", "prompt": "x", "max_tokens": 200}
        codes.append(httpx.post(f"{url}/v1/completions", json=body, timeout=30.0).status_code)

    threads = [threading.Thread(target=ask) for _ in range(16)]
    for thread in threads:
        thread.start()
    wait_for(lambda: sum(httpx.get(f"{url}/api/live").json()["engine"][name] for name in ("running", "waiting")) == 16)
    process.send_signal(signal.SIGTERM)
    for thread in threads:
        thread.join(30.0)
    assert codes == [200] * 16
    assert process.wait(20.0) in (0, -signal.SIGTERM)
