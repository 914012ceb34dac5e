"""`batchpilot load --import` as it is typed: one table, a promise, traces and steps that other commands read."""

import json
from pathlib import Path

import pytest
from scripted_server import DONE, text, threaded, usage
from typer.testing import CliRunner

from batchpilot.runners.main import app

DATA = Path(__file__).parents[1] / "serving/formats/results/data"


def told(*arguments, code=0):
    result = CliRunner().invoke(app, [*map(str, arguments)])
    assert result.exit_code == code, result.output
    return result.output


def imported(*files, **options):
    typed = [part for file in files for part in ("--import", DATA / file)]
    return json.loads(told("load", *typed, "--json", *(f"--{name}={value}" for name, value in options.items())))


def test_files_of_five_tools_stand_in_one_table():
    files = [
        "vllm-0.32-detailed.json",
        "guidellm-0.8.1-poisson.json",
        "aiperf-0.13-profile_export.jsonl",
        "inference-perf-0.7-chat-summary.json",
    ]
    found = imported(*files)
    assert [run["tool"] for run in found["runs"]] == ["vllm bench serve", "GuideLLM 0.8.1", "AIPerf", "inference-perf"]
    assert all(run["ttft_p50_ms"] > 0 and run["throughput_tokens_per_s"] > 0 for run in found["runs"])
    table = told("load", *(part for file in files for part in ("--import", DATA / file)))
    assert "TPOT p95, ms" in table
    assert "contains TTFT" in table
    assert "Nothing was promised" in table


def test_a_promise_judges_whose_requests_are_known():
    known, sums = imported("vllm-0.32-detailed.json", "vllm-0.32-plain.json", **{"ttft-ms": 0.01, "tpot-ms": 9})["runs"]
    assert known["goodput_fraction"] == 0.0
    assert "goodput_fraction" not in sums


def test_what_is_written_is_read_by_other_commands(tmp_path):
    out = tmp_path / "out"
    told(
        "load",
        "--import",
        DATA / "guidellm-0.8.1-mooncake.json",
        "--import",
        DATA / "vllm-0.32-detailed.json",
        "--out",
        out,
    )
    (slow,) = out.glob("1-*.trace.csv")
    assert [line.split(",")[0] for line in slow.read_text().splitlines()[1:]] == [
        "0.000",
        "0.000",
        "1.000",
        "2.000",
        "3.000",
    ]
    (trace,), (steps,) = out.glob("2-*.trace.csv"), out.glob("2-*.steps.csv")
    assert "error" not in told("calibrate", "--measurements", steps, "--out", tmp_path / "latency.yaml").lower()[:20]
    assert (tmp_path / "latency.yaml").exists()
    with threaded(obliging) as address:
        told("load", "--url", address, "--trace", trace, "--format", "csv", "--out", tmp_path / "again")
    again = told("load", "--import", tmp_path / "again", "--json")
    (run,) = json.loads(again)["runs"]
    assert run["tool"] == "batchpilot load"
    assert run["requests"] == 8
    assert run["goodput_fraction"] == 1.0
    (judged,) = json.loads(told("load", "--import", tmp_path / "again", "--json", "--ttft-ms", "0.0001"))["runs"]
    assert judged["goodput_fraction"] == 0.0


def obliging(exchange):
    count, prompt = exchange.body["max_tokens"], len(exchange.body["prompt"]) // 4
    exchange.stream(*(text(" a") for _ in range(count)), text("", "length"), usage(count, prompt), DONE)


@pytest.mark.parametrize(
    ("arguments", "said"),
    [
        (("--url", "http://127.0.0.1:1"), "--url would change nothing with --import"),
        (("--rate", "2"), "--rate would change nothing with --import"),
        (("--ttft-ms", "-1"), "must be above 0"),
    ],
)
def test_what_would_change_nothing_is_refused(arguments, said):
    assert said in " ".join(told("load", "--import", DATA / "vllm-0.32-plain.json", *arguments, code=2).split())


def test_nothing_is_overwritten_without_being_told(tmp_path):
    typed = ("load", "--import", DATA / "vllm-0.32-plain.json", "--out", tmp_path)
    told(*typed)
    assert "--overwrite" in told(*typed, code=2)
    told(*typed, "--overwrite")
