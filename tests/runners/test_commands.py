"""The command line, run as a user runs it."""

import csv
import datetime
import json
import shutil
import subprocess
import sys

import pytest
from typer.testing import CliRunner

from batchpilot.runners.leaderboard.board import TRACK_TUNERS
from batchpilot.runners.main import app
from batchpilot.tuners.planning import SHIPPED_POLICIES


@pytest.fixture
def run(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    runner = CliRunner()
    return lambda *arguments: runner.invoke(app, [str(argument) for argument in arguments])


def test_leaderboard_writes_table_csv_and_report(run, tiny_file, tmp_path):
    result = run("leaderboard", "--scenario", tiny_file, "--seeds", 2, "--out", "out")
    assert result.exit_code == 0, result.output
    assert "guarded-default" in result.output
    assert "static-best" in result.output
    rows = list(csv.DictReader((tmp_path / "out/results.csv").open()))
    assert {row["seed"] for row in rows} == {"0", "1"}
    assert len(rows) == 2 * len(TRACK_TUNERS["guarded"])
    report = (tmp_path / "out/report.html").read_text()
    assert "<svg" in report


def test_results_are_not_overwritten_without_being_told(run, tiny_file):
    command = ("leaderboard", "--scenario", tiny_file, "--seeds", 1, "--tuners", "static-8", "--out", "out")
    assert run(*command).exit_code == 0
    refused = run(*command)
    assert refused.exit_code == 2
    assert "--overwrite or --resume" in refused.output
    assert run(*command, "--resume").exit_code == 0
    assert run(*command, "--overwrite").exit_code == 0


def test_a_folder_of_published_traces_lets_a_scenario_replay_its_own(run, tmp_path):
    start = datetime.datetime(2023, 11, 16, 18, 15, 46)
    lines = [f"{start + datetime.timedelta(seconds=10.5 * i)},{100 + i},{5 + i % 7}" for i in range(330)]
    text = "TIMESTAMP,ContextTokens,GeneratedTokens\n" + "\n".join(lines) + "\n"
    (tmp_path / "AzureLLMInferenceTrace_conv.csv").write_text(text)
    scenario = (
        "leaderboard",
        "--scenario",
        "held-trace-conv-h100",
        "--seeds",
        1,
        "--tuners",
        "static-8",
        "--out",
        "out",
    )
    result = run(*scenario, "--traces", tmp_path)
    assert result.exit_code == 0, result.output
    rows = list(csv.DictReader((tmp_path / "out/results.csv").open()))
    assert [row["scenario"] for row in rows] == ["held-trace-conv-h100"]


def test_a_trace_is_replayed_faster_and_on_another_device(run, tmp_path):
    lines = [f"2023-11-16 18:15:{i % 60:02d}.1234567,{100 + i},{5 + i % 7}" for i in range(50)]
    (tmp_path / "mine.csv").write_text("TIMESTAMP,ContextTokens,GeneratedTokens\n" + "\n".join(sorted(lines)) + "\n")
    result = run(
        "leaderboard", "--trace", "mine.csv", "--rate", 2.0, "--device", "A10", "--tuners", "static-8,static-default",
        "--track", "batch", "--seeds", 1, "--json", "--out", "out",
    )  # fmt: skip
    assert result.exit_code == 0, result.output
    rows = list(csv.DictReader((tmp_path / "out/results.csv").open()))
    assert {row["device"] for row in rows} == {"A10"}
    assert {row["requests"] for row in rows} == {"50"}
    assert json.loads(result.stdout)[0]["tuner"] in ("static-8", "static-default")


def test_a_malformed_trace_is_named_with_its_line_and_can_be_skipped(run, tmp_path):
    (tmp_path / "bad.csv").write_text(
        "TIMESTAMP,ContextTokens,GeneratedTokens\n"
        "2023-11-16 18:15:46.6805900,374,44\nnonsense,1,2\n2023-11-16 18:15:47.6805900,374,44\n"
    )
    command = ("leaderboard", "--trace", "bad.csv", "--tuners", "static-8", "--track", "batch", "--seeds", 1)
    refused = run(*command, "--out", "out")
    assert refused.exit_code == 2
    assert "bad.csv" in refused.output
    assert "line 3" in refused.output
    assert run(*command, "--out", "skipped", "--skip-bad-rows").exit_code == 0


def test_requests_that_no_engine_could_serve_are_said_to_be(run, tmp_path):
    lines = [f"2023-11-16 18:15:{i:02d}.5,{100_000 if i % 2 else 100},5" for i in range(20)]
    (tmp_path / "long.csv").write_text("TIMESTAMP,ContextTokens,GeneratedTokens\n" + "\n".join(lines) + "\n")
    command = ("leaderboard", "--trace", "long.csv", "--tuners", "static-8,static-default", "--track", "batch")
    result = run(*command, "--seeds", 1, "--out", "out")
    assert result.exit_code == 0, result.output
    assert "at least 10 of 20 requests failed under every strategy" in result.output


def test_simulate_prints_what_happened(run, tiny_file, tmp_path):
    result = run("simulate", tiny_file, "--tuner", "hybrid", "--json", "--out", "run.json")
    assert result.exit_code == 0, result.output
    figures = json.loads(result.stdout)
    assert figures["strategy"] == "hybrid"
    ended = sum(value for name, value in figures.items() if name.startswith("ended_"))
    assert ended == figures["requests"]
    details = json.loads((tmp_path / "run.json").read_text())
    assert len(details["per_request"]["ttft_ms"]) == figures["requests"]


def test_simulate_takes_a_policy_file_and_a_tuner_of_ones_own(run, tiny_file, tmp_path):
    shutil.copy(SHIPPED_POLICIES / "limits.onnx", "mine.onnx")
    told = run("simulate", tiny_file, "--tuner", "policy:mine.onnx", "--json")
    assert told.exit_code == 0, told.output
    assert json.loads(told.stdout)["strategy"] == "policy:mine.onnx"
    (tmp_path / "mine.py").write_text(
        "from batchpilot import Limits\nfrom batchpilot.baselines import StaticTuner\n"
        "class Three(StaticTuner):\n    def __init__(self): super().__init__(Limits(3))\n"
    )
    told = run("simulate", tiny_file, "--tuner", "mine.py:Three", "--json")
    assert told.exit_code == 0, told.output
    assert "batch_size=3" in json.loads(told.stdout)["final_limits"]


def test_simulate_says_what_was_kept_beside_what_servers_ship(run, tiny_file):
    told = json.loads(run("simulate", tiny_file, "--tuner", "dynamic", "--json").stdout)
    shipped = json.loads(run("simulate", tiny_file, "--json").stdout)
    shown = run("simulate", tiny_file, "--tuner", "dynamic").output
    first = " ".join(shown.split())
    assert first.startswith(
        f"dynamic on {told['scenario']}: {told['goodput_fraction']:.1%} of the offered tokens within"
    )
    assert f"what servers ship keeps {shipped['goodput_fraction']:.1%}." in first
    assert "static-default †" in first
    for group in ("What was asked", "What was kept", "Who was refused", "Where it comes from"):
        assert group in first
    alone = run("simulate", tiny_file).output
    assert "what servers ship keeps" not in " ".join(alone.split())


def test_simulate_replays_a_trace_of_ones_own_columns(run, tmp_path):
    trace = tmp_path / "own.csv"
    trace.write_text("sent_at,in,out\n10,100,5\n10.5,200,6\n12,50,7\n")
    answer = run("simulate", "--trace", trace, "--columns", "prompt=in,output=out", "--json")
    told = json.loads(answer.stdout)
    assert told["requests"] == told["ended_length"] == 3
    assert "arrivals from 'sent_at' (in s), prompts from 'in', outputs from 'out'" in answer.stderr
    assert "would change nothing with --trace" in run("simulate", "quick-chat", "--trace", trace).output
    assert "would change nothing without --trace" in run("simulate", "--rate", "2").output


def test_simulate_tells_what_the_images_of_a_trace_cost_and_load_refuses_them_without_chat(run, tmp_path):
    rows = "\n".join(f"{100 * k},700,20,{[336, ''][k % 2]},{k % 4}" for k in range(40))
    (tmp_path / "pictures.csv").write_text(f"arrival_ms,prompt_tokens,output_tokens,image_size,image_id\n{rows}\n")
    result = run("simulate", "--trace", "pictures.csv", "--format", "csv", "--limits", "batch_size=8", "--json")
    assert result.exit_code == 0, result.output
    assert json.loads(result.stdout)["image_hit_rate"] == pytest.approx(18 / 20)
    refused = run("load", "--url", "http://127.0.0.1:9", "--trace", "pictures.csv", "--format", "csv")
    assert refused.exit_code != 0
    assert "the requests hold images, which are sent in conversations alone" in " ".join(refused.output.split())


def test_simulate_takes_a_reference(run, tiny_file):
    told = {
        name: json.loads(run("simulate", tiny_file, "--tuner", name, "--json").stdout)
        for name in ("static-best", "static-8")
    }
    assert told["static-best"]["goodput_fraction"] >= told["static-8"]["goodput_fraction"]


def test_simulate_takes_constant_limits(run, tiny_file):
    result = run("simulate", tiny_file, "--limits", "batch_size=4,token_budget=512,ttft_guard=1.0", "--json")
    assert json.loads(result.stdout)["final_limits"] == "batch_size=4, token_budget=512, ttft_guard=1.0"


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (("simulate", "quick-chta"), "quick-chat"),
        (("simulate", "quick-chat", "--limits", "batchsize=4"), "batch_size"),
        (("simulate", "quick-chat", "--limits", "4", "--tuner", "aimd"), "follows one of them"),
        (("simulate", "quick-chat", "--tuner", "policy:nowhere.onnx"), "nowhere.onnx"),
        (("simulate", "quick-chat", "--device", "A1000"), "A10"),
        (("leaderboard", "--suite", "quik"), "quick"),
        (("leaderboard", "--tuners", "dynamc"), "dynamic"),
        (("leaderboard", "--trace", "nowhere.csv"), "nowhere.csv"),
        (("compare", "--config", "t4-16g"), "t4-16gb"),
    ],
)
def test_a_mistake_is_one_line_and_status_2(run, arguments, message):
    result = run(*arguments)
    assert result.exit_code == 2
    assert message in result.output
    assert "Traceback" not in result.output


def test_compare_gates_against_a_baseline(run, tmp_path):
    command = ("compare", "--seeds", 1, "--tuners", "static-8,static-32")
    assert run(*command, "--save-baseline", "base.json").exit_code == 0
    assert run(*command, "--baseline", "base.json").exit_code == 0
    stored = json.loads((tmp_path / "base.json").read_text())
    stored["rows"][0]["throughput_tokens_per_s"] *= 2
    (tmp_path / "base.json").write_text(json.dumps(stored))
    failed = run(*command, "--baseline", "base.json")
    assert failed.exit_code == 1
    assert "regression" in failed.output


def test_the_installed_command_answers():
    finished = subprocess.run(
        [sys.executable, "-m", "batchpilot.runners.main", "--help"], capture_output=True, text=True, check=True
    )
    assert "leaderboard" in finished.stdout


def test_a_regression_fails_with_a_table_and_equal_figures_pass(run, tiny_file, tmp_path):
    command = ("leaderboard", "--scenario", tiny_file, "--seeds", 1, "--tuners", "static-8,aimd", "--out", "out")
    saved = run(*command, "--save-baseline", "base.json")
    assert saved.exit_code == 0, saved.output
    passed = run(*command, "--overwrite", "--baseline", "base.json")
    assert (passed.exit_code, "no regression against base.json" in passed.output) == (0, True)
    stored = json.loads((tmp_path / "base.json").read_text())
    for row in stored["rows"]:
        row["throughput_tokens_per_s"] *= 1.2
    (tmp_path / "base.json").write_text(json.dumps(stored))
    failed = run(*command, "--overwrite", "--baseline", "base.json")
    assert failed.exit_code == 1
    assert failed.output.count(">= 0.9 x") == 2


def test_a_wrong_baseline_is_told_before_anything_runs(run, tiny_file, tmp_path):
    (tmp_path / "base.json").write_text("{}")
    failed = run("leaderboard", "--scenario", tiny_file, "--baseline", "base.json", "--out", "out")
    assert (failed.exit_code, "not a leaderboard's baseline" in failed.output) == (2, True)
    assert not (tmp_path / "out").exists()
