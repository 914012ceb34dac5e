"""`batchpilot diagnose` as a user runs it."""

from __future__ import annotations

import json
import threading

import pytest
from typer.testing import CliRunner

from batchpilot.runners.main import app


def diagnose(*arguments):
    return CliRunner().invoke(app, ["diagnose", *map(str, arguments)])


@pytest.fixture
def trace(tmp_path):
    path = tmp_path / "trace.csv"
    rows = [f"2023-11-16 18:{k // 1200:02d}:{k // 20 % 60:02d}.{k % 20 * 50:03d}0000,400,200" for k in range(1200)]
    path.write_text("TIMESTAMP,ContextTokens,GeneratedTokens\n" + "\n".join(rows) + "\n")
    return path


def test_a_trace_tells_what_each_limit_is_worth_on_a_device(trace):
    where = ("--trace", trace, "--device", "H100-80GB", "--model", "Llama-3.1-8B", "--json")
    told = json.loads(diagnose(*where, "--limits", "batch_size=8,token_budget=2048").stdout)
    assert told["binds"] == told["binds_by_rules"] == "batch"
    assert told["lateness"]["twice"]["batch"] < told["lateness"]["as_it_is"]
    assert "from 8 to 16" in told["change"]
    assert json.loads(diagnose(*where).stdout)["binds"] == "nothing"


def test_saved_pages_are_diagnosed_with_figures_and_a_change(tmp_path):
    page = tmp_path / "metrics.txt"
    page.write_text(
        'vllm:num_requests_running{engine="0"} 64\nvllm:num_requests_waiting{engine="0"} 90\n'
        'vllm:kv_cache_usage_perc{engine="0"} 0.99\nvllm:num_preemptions_total{engine="0"} 40\n'
        'vllm:request_success_total{engine="0",finished_reason="stop"} 100\n'
    )
    told = diagnose("--metrics", page)
    assert told.exit_code == 0, told.output
    assert told.output.startswith("KV binds: 99% of the KV cache")
    assert "try: make room for KV cache" in told.output
    assert "symptom: out of memory now and then" in told.output


def test_mistakes_are_told_in_a_line(tmp_path, trace):
    page = tmp_path / "metrics.txt"
    page.write_text("up 1\n")
    for words, told in (
        ((), "give one of --url"),
        (("--metrics", page), "no server that is known"),
        (("--metrics", page, "--seconds", 5), "--seconds would change nothing"),
        (("--metrics", page, "--device", "H100"), "--device and --model go together"),
        (("--trace", trace, "--every", 2), "--every would change nothing"),
        (("--url", "localhost:8000"), "no address of a server"),
    ):
        answer = diagnose(*words)
        assert answer.exit_code == 2
        assert told in answer.stderr


def test_a_running_server_is_watched():
    pytest.importorskip("torch")
    httpx = pytest.importorskip("httpx")
    pytest.importorskip("uvicorn")
    from running_server import serving, tiny_runner

    with serving(tiny_runner(), tuner="static-8") as (_, url, _server):
        body = {"model": "tiny", "prompt": "hello", "max_tokens": 20, "ignore_eos": True, "ttft_ms": 1e5}

        watched, answered = threading.Event(), threading.Barrier(25)

        def ask():
            httpx.post(f"{url}/v1/completions", json=body, timeout=60.0)
            answered.wait(timeout=60.0)
            while not watched.is_set():
                httpx.post(f"{url}/v1/completions", json=body, timeout=60.0)

        # Three times as many clients as the batch holds, from before the watch until after it.
        clients = [threading.Thread(target=ask) for _ in range(24)]
        for client in clients:
            client.start()
        answered.wait(timeout=60.0)
        # A promise that nobody keeps: the verdict is about what makes them wait.
        promise = ("--ttft-ms", 0.01, "--tpot-ms", 1e5)
        try:
            answer = diagnose("--url", url, "--seconds", 1.5, "--every", 0.1, *promise, "--json")
        finally:
            watched.set()
            for client in clients:
                client.join()
    told = json.loads(answer.stdout)
    assert (told["source"], told["binds"]) == ("batchpilot", "batch")
    assert told["evidence"]["batch_size"] == 8
    assert told["evidence"]["waiting"] > 1
