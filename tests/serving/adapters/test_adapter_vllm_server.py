"""A vLLM server of the real package with our scheduler and an executor that sleeps: what its clients see over HTTP."""

import asyncio
import importlib
import os
import signal
import socket
import subprocess
import sys
import time
from collections import Counter
from pathlib import Path

import pytest

reason = "vLLM and what its API server needs are not installed"
pytest.importorskip("vllm.v1.core.sched.async_scheduler", reason=reason, exc_type=ImportError)
pytest.importorskip("vllm.entrypoints.openai.api_server", reason=reason, exc_type=ImportError)
httpx = pytest.importorskip("httpx")

from adapter_vllm_engine import write_model  # noqa: E402

from batchpilot.serving.adapters.versions import installed_version  # noqa: E402
from batchpilot.serving.adapters.vllm_refusals import output_has_error  # noqa: E402

ROOT = Path(__file__).parents[3]
HELPERS = ROOT / "tests" / "helpers"
EXAMPLES = ROOT / "examples"
PROMPT_TOKENS = 400  # 22 ms of the executor


@pytest.fixture(scope="module")
def server(tmp_path_factory):
    """The address of a server started by the example's command, of 16 requests and 512 tokens a step."""
    folder = tmp_path_factory.mktemp("vllm")
    write_model(folder)
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port = probe.getsockname()[1]
    with pytest.MonkeyPatch.context() as patch:
        patch.syspath_prepend(str(EXAMPLES))
        command = importlib.import_module("vllm_tuned").command
    options = (
        f"--host 127.0.0.1 --port {port} --dtype float32 --skip-tokenizer-init --async-scheduling --max-num-seqs 16"
    )
    options += " --max-model-len 4096 --max-num-batched-tokens 512 --no-enable-prefix-caching"
    options += " --distributed-executor-backend adapter_vllm_executor.SleepingExecutor"
    _, *arguments = command(str(folder), "guarded-default", *options.split(), ttft_ms=300.0)
    environment = os.environ | {
        "PYTHONPATH": os.pathsep.join([str(HELPERS), os.environ.get("PYTHONPATH", "")]),
        "VLLM_TARGET_DEVICE": "cpu",
        "VLLM_NO_USAGE_STATS": "1",
        "HF_HUB_OFFLINE": "1",
    }
    with (folder / "log").open("w") as log:
        process = subprocess.Popen(
            [sys.executable, "-m", "vllm.entrypoints.cli.main", *arguments],
            stdout=log,
            stderr=log,
            env=environment,
            start_new_session=True,
        )
    try:
        url = f"http://127.0.0.1:{port}"
        wait_for(url, process, folder / "log")
        yield url, str(folder)
    finally:
        os.killpg(process.pid, signal.SIGTERM)
        process.wait(30)


def wait_for(url, process, log):
    """Wait until the server answers."""
    until = time.monotonic() + 120
    while process.poll() is None and time.monotonic() < until:
        try:
            if httpx.get(f"{url}/health").status_code == 200:
                return
        except httpx.TransportError:
            time.sleep(0.5)
    pytest.fail(f"vLLM did not come up: {log.read_text()[-3000:]}")


def ask(server, requests, *, stream=False):
    """Responses to requests that come together, each of 400 prompt and 5 output tokens."""
    url, model = server
    body = {"model": model, "prompt": [5] * PROMPT_TOKENS, "max_tokens": 5, "stream": stream, "detokenize": False}

    async def play():
        async with httpx.AsyncClient(timeout=60, limits=httpx.Limits(max_connections=requests)) as client:
            return await asyncio.gather(*(client.post(f"{url}/v1/completions", json=body) for _ in range(requests)))

    return asyncio.run(play())


def test_requests_that_can_keep_their_promise_are_answered(server):
    for _ in range(6):
        (response,) = ask(server, 1)
        assert response.status_code == 200
        assert response.json()["usage"]["completion_tokens"] == 5


def test_a_refused_request_gets_503_with_the_reason(server):
    test_requests_that_can_keep_their_promise_are_answered(server)
    responses = ask(server, 100)  # 2.2 s of prefill, for a promise of 0.3 s
    assert set(Counter(response.status_code for response in responses)) == {200, 503}
    refused = next(response.json()["error"] for response in responses if response.status_code == 503)
    assert refused["message"].startswith("The server is busy: its first token would have come too late")
    kind = "ServiceUnavailableError" if output_has_error(installed_version("vllm")) else "Service Unavailable"
    assert (refused["type"], refused["code"]) == (kind, 503)


def test_a_refused_stream_has_begun_and_ends_with_the_error(server):
    test_requests_that_can_keep_their_promise_are_answered(server)
    responses = ask(server, 100, stream=True)
    assert {response.status_code for response in responses} == {200}
    assert all(response.text.endswith("data: [DONE]\n\n") for response in responses)
    refused = [response.text for response in responses if '"error"' in response.text]
    assert len(refused) > 0  # all of them where a busy machine takes a promise's time to read a hundred requests
    assert all(text.count("data: ") == 2 and '"code": 503' in text for text in refused)
