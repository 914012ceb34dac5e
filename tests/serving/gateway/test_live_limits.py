"""Limits told to the upstream itself: recorded interfaces of proposed doors, over real HTTP."""

import json

import pytest

httpx = pytest.importorskip("httpx")
pytest.importorskip("uvicorn")

from gateway_servers import serving, wait_until  # noqa: E402

from batchpilot.baselines import StaticTuner  # noqa: E402
from batchpilot.core import Limits  # noqa: E402
from batchpilot.serving.gateway import Gateway, GatewaySettings  # noqa: E402
from batchpilot.serving.session.session import TunerSession  # noqa: E402

VLLM_STARTED = {"max_num_seqs": 64, "max_num_running_seqs": 64}
SGLANG_STARTED = {
    "max_running_requests": 48,
    "chunked_prefill_size": 4096,
    "internal_states": [{}],
    "version": "0.5.23",
}


class Told:
    """An upstream with a door: vLLM's of pull request 54816, SGLang's of 37661, or SGLang 0.5.23's, which refuses."""

    def __init__(self, kind):
        self.kind, self.asked, self.told = kind, [], []

    async def __call__(self, scope, receive, send):
        if scope["type"] == "lifespan":
            for kind in ("startup", "shutdown"):
                await receive()
                await send({"type": f"lifespan.{kind}.complete"})
            return
        body = (await receive()).get("body", b"")
        path, method = scope["path"], scope["method"]
        status, said = self.answer(method, path, json.loads(body or b"null"))
        await send({"type": "http.response.start", "status": status, "headers": []})
        await send({"type": "http.response.body", "body": json.dumps(said).encode()})

    def answer(self, method, path, body):
        if method == "GET":
            self.asked.append(path)
        if path == "/v1/runtime_config" and self.kind == "vllm":
            if method == "PATCH":
                self.told.append(body)
            return 200, VLLM_STARTED | (body or {})
        if path == "/server_info" and self.kind.startswith("sglang"):
            return 200, SGLANG_STARTED
        if path == "/set_internal_state" and self.kind.startswith("sglang"):
            self.told.append(body["server_args"])
            return 200, [self.kind == "sglang"]
        return 404, {"detail": "Not Found"}


def statuses(kind, limits, live=True):
    """The gateway's status once it has asked twice, and the upstream after the gateway has ended."""
    upstream = Told(kind)
    with serving(upstream) as address:
        settings = GatewaySettings(address, poll_s=0.02, live_limits=live)
        with serving(Gateway(TunerSession(StaticTuner(limits), window_ms=50.0), settings)) as gateway:
            wait_until(lambda: upstream.asked.count("/metrics") > 4)
            status = httpx.get(f"{gateway}/gateway/status").json()
    return status, upstream


def test_vllm_is_told_the_batch_size_once_and_gets_its_own_back():
    status, upstream = statuses("vllm", Limits(16, 512))
    assert status["limits_held_inside"] == ["batch_size"]
    assert status["limits_not_held"] == ["token_budget"]
    assert upstream.told == [{"max_num_running_seqs": 16}, {"max_num_running_seqs": 64}]


def test_sglang_is_told_the_budget_too():
    status, upstream = statuses("sglang", Limits(16, 512))
    assert status["limits_held_inside"] == ["batch_size", "token_budget"]
    assert status["limits_not_held"] == []
    assert upstream.told == [
        {"max_running_requests": 16, "chunked_prefill_size": 512},
        {"max_running_requests": 48, "chunked_prefill_size": 4096},
    ]


def test_nothing_above_what_it_was_started_with_is_told():
    _, upstream = statuses("sglang", Limits(256, None))
    assert upstream.told == [{"max_running_requests": 48, "chunked_prefill_size": 4096}]


@pytest.mark.parametrize("kind", ["sglang-0.5.23", "none"])
def test_a_server_that_cannot_be_told_is_asked_once_and_left_alone(kind):
    status, upstream = statuses(kind, Limits(16, 512))
    assert status["limits_held_inside"] == []
    assert status["limits_not_held"] == ["token_budget"]
    assert upstream.asked.count("/server_info") == 1
    assert len(upstream.told) == (kind != "none")


def test_nobody_is_told_unless_asked_for():
    _, upstream = statuses("vllm", Limits(16), live=False)
    assert set(upstream.asked) == {"/metrics"}
