"""`batchpilot load` as it is typed: traces, scenarios, mistakes, and Ctrl-C."""

import asyncio
import json
import signal
import subprocess
import sys
import threading

import numpy as np
import pytest
from scripted_server import DONE, loaded, text, threaded, usage
from typer.testing import CliRunner

from batchpilot.configs.scenario import suite, suites
from batchpilot.core import SLO
from batchpilot.envs.scenarios import prepare
from batchpilot.runners.http.load.part import Part
from batchpilot.runners.http.load.report import figures
from batchpilot.runners.main import app
from batchpilot.serving.load.prompts import Prompts
from batchpilot.workloads.table import RequestTable

LINES = {
    "azure2023": "TIMESTAMP,ContextTokens,GeneratedTokens\n"
    "2023-11-16 18:15:46.0000000,40,2\n2023-11-16 18:15:46.1500000,60,3\n",
    "azure2024": "TIMESTAMP,ContextTokens,GeneratedTokens\n"
    "2024-05-10 00:00:00.000000+00:00,40,2\n2024-05-10 00:00:00.150000+00:00,60,3\n",
    "burstgpt": "Timestamp,Model,Request tokens,Response tokens,Total tokens,Log Type\n"
    "5,ChatGPT,40,2,42,Conversation log\n5.15,ChatGPT,60,3,63,Conversation log\n",
    "mooncake": '{"timestamp": 0, "input_length": 40, "output_length": 2, "hash_ids": [1]}\n'
    '{"timestamp": 150, "input_length": 60, "output_length": 3, "hash_ids": [2]}\n',
    "vidur": "arrived_at,num_prefill_tokens,num_decode_tokens\n0.0,40,2\n0.15,60,3\n",
    "csv": "arrival_ms,prompt_tokens,output_tokens\n0,40,2\n150,60,3\n",
}


def obliging(exchange):
    """Answers at once with what was asked for."""
    count, prompt = exchange.body["max_tokens"], len(exchange.body["prompt"]) // 4
    exchange.stream(*(text(" a") for _ in range(min(count, 20))), text("", "length"), usage(count, prompt), DONE)


@pytest.fixture(scope="module")
def server():
    with threaded(obliging) as address:
        yield address


def told(*arguments, code=0):
    result = CliRunner().invoke(app, ["load", *map(str, arguments)])
    assert result.exit_code == code, result.output
    return result


@pytest.mark.parametrize("name", LINES)
def test_every_trace_format_is_sent_with_its_lengths_and_gaps(name, server, tmp_path):
    trace = tmp_path / "trace"
    trace.write_text(LINES[name])
    out = tmp_path / "out"
    told("--url", server, "--trace", trace, "--format", name, "--out", out)
    rows = json.loads((out / "results.json").read_text())["per_request"]
    assert np.diff(rows["due_ms"]).tolist() == pytest.approx([150.0])
    assert (rows["prompt_tokens"], rows["output_tokens"]) == ([40, 60], [2, 3])
    assert rows["finish_reason"] == ["length", "length"]


@pytest.mark.parametrize(
    "name", sorted({name for name in suites() if "torch" in name or name in ("quick", "standard")})
)
def test_every_scenario_of_the_suites_has_requests_that_can_be_sent(name):
    for scenario in suite(name):
        if scenario.needs_trace:
            continue
        requests = prepare(scenario, 0).requests
        sent = Part().of(requests)
        assert len(sent) == len(requests) > 0
        prompts = Prompts(sent.prompt_tokens, 4.0)
        longest = int(np.argmax(sent.prompt_tokens))
        assert len(prompts[longest]) == 4 * sent.prompt_tokens[longest]


def test_clients_of_a_closed_loop_keep_their_own_pace():
    with pytest.raises(ValueError, match="closed loop set its pace"):
        Part(rate=2.0).of(prepare(suite("compare-torch")[0], 0).requests)


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        ((), "--url is missing"),
        (("--url", "127.0.0.1:8000"), "must begin with http:// or https://"),
        (("--url", "http://127.0.0.1:9"), "names no model"),
        (("--url", "URL", "--limits", "8"), "it runs with --compare"),
        (("--url", "URL", "--tuner", "hybrid"), "they come with --compare"),
        (("--url", "URL", "--compare", "--tuner", "hybrit"), "hybrid"),
        (("--url", "URL", "--compare", "--tuner", "hybrid", "--limits", "8"), "both given"),
        (("--url", "URL", "--threads", "1"), "cannot be given with --backend simulated"),
        (("--url", "URL", "--body", "{"), "no JSON"),
        (("--url", "URL", "--body", "[]"), "must be an object"),
        (("--url", "URL", "--start-s", "1e9"), "the load is empty"),
        (("--url", "URL", "--grace-s", "0"), "grace_s"),
        (("--url", "URL", "--scenario", "trace-replay"), "trace"),
        (("--url", "URL", "--scenario", "quick-cht"), "quick-chat"),
    ],
)
def test_mistakes_are_told_in_a_line(arguments, words, server):
    output = told(*(server if part == "URL" else part for part in arguments), code=2).output
    assert words in output
    assert "Traceback" not in output


def test_a_server_of_another_kind_is_told_from_one(server):
    def page(exchange):
        exchange.whole(b"<html>Hello</html>", kind="text/html")

    with threaded(page) as address:
        output = told("--url", address + "/elsewhere", "--duration-s", "1", "--rate", "5").output
    assert "no completion but text/html: <html>Hello</html>" in " ".join(output.split())


def test_refusals_and_failures_have_figures_of_their_own_and_leave_the_served_alone():
    async def script(exchange):
        which = len(exchange.body["prompt"])
        if which < 100:
            exchange.whole({"error": {"message": "full", "code": "queue_full"}}, status=429)
        elif which < 300:
            exchange.whole({"error": {"message": "broken"}}, status=500)
        else:
            await asyncio.sleep(0.3)
            obliging(exchange)

    prompts = [20] * 6 + [60] * 2 + [200] * 4
    requests = RequestTable.from_arrays(np.arange(12.0), prompts, [4] * 12, slos=SLO(1e6, 1e6))
    found = figures(loaded(script, requests)[0].outcome)
    assert (found["ended_length"], found["refused_fraction"], found["failed_fraction"]) == (4, 6 / 12, 2 / 12)
    assert found["e2e_p50_ms"] >= 300.0
    assert 0 < found["refusal_ms_p50"] <= found["refusal_ms_p95"] < found["e2e_p50_ms"]
    assert 0 < found["failure_ms_p50"] <= found["failure_ms_p95"] < found["e2e_p50_ms"]


SAYS = {"/version": {"version": "0.33.0"}, "/props": {"version": "not asked", "total_slots": 4}}


def test_the_reports_origin_is_what_the_server_says_and_no_catalogues(tmp_path):
    with threaded(obliging, SAYS) as address:
        told("--url", address, "--duration-s", "2", "--rate", "2", "--out", tmp_path)
    found = json.loads((tmp_path / "results.json").read_text())
    assert found["server"] == {"version": "0.33.0", "total_slots": 4}
    page = (tmp_path / "report.html").read_text()
    assert "0.33.0" in page
    assert found["promise"] == "TTFT 2000 ms, TPOT 100 ms"
    assert found["load"].endswith(" requests/s")
    assert found["promise"] in page
    assert found["load"] in page
    assert "estimated" not in page
    assert "A10" not in page


def test_compared_columns_run_with_a_tuner(server):
    arguments = ("--url", server, "--duration-s", "2", "--rate", "4", "--compare", "--tuner", "hybrid", "--json")
    found = json.loads(told(*arguments).stdout)
    assert set(found["columns"]) == {"simulated"}
    assert found["columns"]["simulated"]["requests"] == found["requests"]
    assert found["column"] == "over HTTP"


def test_interrupting_prints_and_writes_what_has_ended(tmp_path):
    answered = threading.Event()

    def noting(exchange):
        obliging(exchange)
        answered.set()

    out = tmp_path / "out"
    with threaded(noting) as address:
        command = [sys.executable, "-m", "batchpilot.runners.main", "load", "--url", address, "--out", str(out)]
        process = subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.PIPE)
        # The question about the length of a token comes first, then the load.
        assert answered.wait(60)
        answered.clear()
        assert answered.wait(60)
        process.send_signal(signal.SIGINT)
        printed, errors = process.communicate(timeout=60)
    assert process.returncode == 130, errors
    found = json.loads((out / "results.json").read_text())
    assert found["interrupted"]
    assert 0 < found["requests"] < found["planned_requests"]
    assert found["ended_length"] + found["ended_cancelled"] == found["requests"]
    assert b"Stopped by hand after" in printed
    assert "Stopped by hand" in (out / "report.html").read_text()
    assert sorted(path.name for path in out.iterdir()) == ["report.html", "results.json"]
