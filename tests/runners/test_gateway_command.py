"""What is typed to `batchpilot gateway` of several upstreams."""

import os
import socket
import subprocess
import sys

import pytest
from typer.testing import CliRunner

from batchpilot.runners.main import app

TWO = ["--upstream", "http://127.0.0.1:1", "--upstream", "http://127.0.0.1:2,version=2"]


@pytest.mark.parametrize(
    ("typed", "said"),
    [
        ([], "--upstream"),
        ([*TWO, "--upstreams", "more.yaml"], "not both"),
        ([*TWO, "--router", "fastest"], "unknown routing rule"),
        ([*TWO, "--experiment", "a=b"], "1=0.9,2=0.1"),
        ([*TWO, "--experiment", "3=1"], "upstreams have [0, 2]"),
        ([*TWO, "--canary", "2"], "OLD,NEW"),
        ([*TWO, "--breaker", "5"], "FAILURES,SECONDS"),
        ([*TWO, "--rate-limit", "5"], "TOKENS_PER_S,BURST"),
        ([*TWO, "--replicas", "3,1"], "replicas are 3 to 1"),
        ([*TWO, "--scaler", "predictive"], "--replica-tokens-per-s"),
        ([*TWO, "--scaler", "clairvoyant"], "unknown scaler"),
    ],
)
def test_what_cannot_be_is_refused_in_words(typed, said):
    ran = CliRunner().invoke(app, ["gateway", *typed], env={"COLUMNS": "400"})
    assert ran.exit_code != 0
    assert said in " ".join(ran.output.split())


def test_a_file_of_upstreams_is_served(tmp_path):
    httpx = pytest.importorskip("httpx")
    pytest.importorskip("httptools")
    pytest.importorskip("uvicorn")
    from gateway_scripts import WHOLE, post, saying, speaking
    from gateway_servers import wait_until

    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    scripts = [saying(WHOLE) for _ in range(2)]
    file = tmp_path / "upstreams.yaml"
    with speaking(scripts[0][0]) as first, speaking(scripts[1][0]) as second:
        file.write_text(f"upstreams:\n- url: {first}\n  weight: 3\n- {second}\n")
        options = ["--upstreams", str(file), "--router", "weighted", "--limits", "batch_size=8", "--poll-s", "0"]
        command = [sys.executable, "-m", "batchpilot.runners.main", "gateway", *options, "--health-s", "0"]
        process = subprocess.Popen([*command, "--port", str(port)], env=os.environ)
        try:
            address = f"http://127.0.0.1:{port}"

            def answers():
                try:
                    return httpx.get(f"{address}/gateway/status", trust_env=False).status_code == 200
                except httpx.HTTPError:
                    return False

            wait_until(answers, 90)
            assert all(post(address).status_code == 200 for _ in range(4))
        finally:
            process.terminate()
            process.wait(20)
    assert [len(heard) for _, heard in scripts] == [3, 1]
