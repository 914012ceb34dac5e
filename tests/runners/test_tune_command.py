"""`batchpilot tune` as a user runs it: killed, stopped, resumed, shared between processes."""

import json
import os
import signal
import subprocess
import sys
import time

import pytest
import typer
import yaml
from typer.testing import CliRunner

pytest.importorskip("optuna")
pytest.importorskip("cmaes")

from batchpilot.configs import load_tuner_config
from batchpilot.core.limits import Limits
from batchpilot.runners.tuning.command import tune
from batchpilot.runners.tuning.search import Search
from batchpilot.tuners.bayesian.studies import TrialState

TUNE = "from batchpilot.runners.main import app; app()"


@pytest.fixture
def run(tiny_file):
    app = typer.Typer()
    app.command()(tune)

    def call(*arguments):
        words = ["--scenario", tiny_file, "--seeds", "2", *arguments]
        return CliRunner().invoke(app, [str(word) for word in words])

    return call


def results(folder):
    return json.loads((folder / "results.json").read_text())


def test_finds_limits_that_hold_on_unseen_seeds_and_writes_what_to_paste(run, tmp_path):
    told = run("--track", "batch", "--sampler", "cmaes", "--trials", "20", "--out", tmp_path)
    assert told.exit_code == 0, told.output
    found = results(tmp_path)
    held = found["held"]
    assert set(held) == {"tuned", "static-default", "grid-best", "static-best"}
    assert held["tuned"]["seen"] >= held["static-default"]["seen"]
    assert held["static-best"]["seen"] >= held["grid-best"]["seen"]
    assert held["tuned"]["unseen"] > 0
    assert len(found["trials"]) == 20
    assert found["origin"]["unseen_seeds"] == [2, 3]
    assert found["importances"] == {"batch_size": pytest.approx(1.0)}
    limits = Limits.from_dict(found["limits"])
    pasted = yaml.safe_load((tmp_path / "server.yaml").read_text())
    assert Limits.from_dict(pasted["limits"]) == limits
    assert load_tuner_config(tmp_path / "server.yaml", warn=False).fixed_batch_size == limits.batch_size
    flags = yaml.safe_load((tmp_path / "vllm.yaml").read_text())
    assert flags["max-num-batched-tokens"] == limits.token_budget >= flags["max-num-seqs"]
    page = (tmp_path / "report.html").read_text()
    assert page.count("<svg") == 2
    assert "How fast did the search converge?" in page
    assert "http" not in page.split("</style>")[1]


def test_the_first_trial_is_what_servers_ship(run, tmp_path):
    run("--trials", "2", "--no-grid", "--out", tmp_path)
    first = results(tmp_path)["trials"][0]
    assert Limits.from_dict(first["limits"]) == Limits(256, token_budget=2048)
    assert first["value"] == pytest.approx(results(tmp_path)["held"]["static-default"]["seen"])


def test_nothing_is_replaced_or_gone_on_with_without_being_told(run, tmp_path):
    quick = ("--no-grid", "--out", tmp_path)
    assert run("--trials", "3", *quick).exit_code == 0
    refused = run("--trials", "5", *quick)
    assert refused.exit_code == 2
    assert "--resume or --overwrite" in refused.output
    assert run("--trials", "5", *quick, "--resume").exit_code == 0
    assert len(results(tmp_path)["trials"]) == 5
    assert run("--trials", "2", *quick, "--overwrite").exit_code == 0
    assert len(results(tmp_path)["trials"]) == 2


@pytest.mark.parametrize("sampler", ["tpe", "cmaes"])
def test_a_study_that_was_interrupted_ends_as_one_that_was_not(run, tmp_path, sampler):
    whole, parts = tmp_path / "whole", tmp_path / "parts"
    options = ("--sampler", sampler, "--no-grid", "--check-seeds", "0")
    run("--trials", "14", *options, "--out", whole)
    for trials in ("5", "9", "14"):
        assert run("--trials", trials, *options, "--out", parts, "--resume").exit_code == 0
    assert results(parts)["trials"] == results(whole)["trials"]


def start(tiny_file, folder, *more):
    words = [
        "--scenario",
        str(tiny_file),
        "--seeds",
        "2",
        "--no-grid",
        "--out",
        str(folder),
        "--trials",
        "100000",
        *more,
    ]
    process = subprocess.Popen(
        [sys.executable, "-c", TUNE, "tune", *words], stderr=subprocess.PIPE, text=True, start_new_session=True
    )
    journal = folder / "study.journal"
    deadline = time.monotonic() + 60
    while time.monotonic() < deadline and not (journal.exists() and journal.stat().st_size > 20_000):
        time.sleep(0.05)
    return process


@pytest.mark.parametrize("jobs", ["1", "2"])
def test_ctrl_c_keeps_the_trials_and_says_how_to_resume(tiny_file, tmp_path, jobs):
    process = start(tiny_file, tmp_path, "--jobs", jobs)
    os.killpg(process.pid, signal.SIGINT)
    _, said = process.communicate(timeout=60)
    assert process.returncode == 130
    assert "trials are kept" in said
    assert "--resume" in said
    assert "Traceback" not in said


def test_a_trial_of_a_killed_process_is_told_as_failed(tmp_path):
    search = Search("batch", "tpe", 5, (0,), str(tmp_path / "study.journal"), "killed")
    code = (
        "import os, signal; from batchpilot.runners.tuning.search import Search; "
        f"s = Search('batch', 'tpe', 5, (0,), {search.storage!r}, 'killed'); e = s.begin(100.0); e.ask(100.0); "
        "os.kill(os.getpid(), signal.SIGKILL)"
    )
    assert subprocess.run([sys.executable, "-c", code], check=False).returncode == -signal.SIGKILL
    assert [trial.state for trial in search.explore().trials()] == [TrialState.FAIL]


def test_a_trial_of_a_process_that_lives_is_left_alone(tmp_path):
    search = Search("batch", "tpe", 5, (0,), str(tmp_path / "study.journal"), "alive")
    running = search.begin(100.0)
    running.ask(100.0)
    assert [trial.state for trial in search.explore().trials()] == [TrialState.RUNNING]


def test_a_part_of_a_trace_is_checked_on_the_part_after_it(tmp_path):
    lines = ["TIMESTAMP,ContextTokens,GeneratedTokens"]
    lines += [f"2024-05-10 00:{s // 60:02d}:{s % 60:02d}.0000000,{200 + s % 7 * 100},20" for s in range(0, 120)]
    trace = tmp_path / "trace.csv"
    trace.write_text("\n".join(lines) + "\n")
    app = typer.Typer()
    app.command()(tune)
    words = ["--trace", trace, "--duration-s", 60, "--trials", 3, "--seeds", 1, "--no-grid", "--out", tmp_path / "out"]
    told = CliRunner().invoke(app, [str(word) for word in words])
    assert told.exit_code == 0, told.output
    assert results(tmp_path / "out")["held"]["tuned"]["unseen"] > 0
    late = CliRunner().invoke(app, [str(word) for word in [*words, "--start-s", 60, "--overwrite"]])
    assert late.exit_code == 2
    assert "no request from 120" in late.output


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (("--sampler", "tpo"), "did you mean 'tpe'"),
        (("--track", "limit"), "did you mean 'limits'"),
        (("--objective", "speed"), "unknown objective"),
        (("--backend", "cuda"), "unknown backend"),
        (("--trace", "x.csv"), "either --scenario"),
        (("--backend", "torch", "--jobs", "2"), "--jobs 1"),
        (("--storage", "postgresql://me:secret@127.0.0.1:1/x"), "storage postgresql://127.0.0.1:1/x"),
        (("--resume", "--overwrite"), "both given"),
    ],
)
def test_mistakes_are_told_in_one_line(run, tmp_path, arguments, message):
    told = run("--out", tmp_path, *arguments)
    assert told.exit_code == 2
    assert message in told.output
    assert "Traceback" not in told.output
    assert "secret" not in told.output
