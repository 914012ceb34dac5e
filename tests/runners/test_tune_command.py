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

from batchpilot.configs.catalogue import powers
from batchpilot.core.limits import Limits
from batchpilot.engines import SimulatedEngine, run_engine
from batchpilot.latency.model.saturation import SaturationParameters
from batchpilot.runners.selection import parse_limits
from batchpilot.runners.tuning.bench import ENERGY, SimulatedBench
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
    pasted = yaml.safe_load((tmp_path / "limits.yaml").read_text())
    assert Limits.from_dict(pasted["limits"]) == limits
    assert parse_limits(str(tmp_path / "limits.yaml")) == limits
    flags = yaml.safe_load((tmp_path / "vllm.yaml").read_text())
    assert flags["max-num-batched-tokens"] == limits.token_budget >= flags["max-num-seqs"]
    page = (tmp_path / "report.html").read_text()
    assert page.count("<svg") == 3
    assert "before: what servers ship" in page
    assert "after: tuned" in page
    assert "How fast did the search converge?" in page
    assert "http" not in page.split("</style>")[1]


def test_the_first_trial_is_what_servers_ship(run, tmp_path):
    run("--trials", "2", "--no-grid", "--out", tmp_path)
    first = results(tmp_path)["trials"][0]
    assert Limits.from_dict(first["limits"]) == Limits(256, token_budget=2048)
    assert first["value"] == pytest.approx(results(tmp_path)["held"]["static-default"]["seen"])


def test_a_prior_names_the_first_trials_after_the_default(run, tmp_path):
    SaturationParameters(p_max=20.0, k_b=0.1, k_s=0.005, tau_0=10.0).to_yaml(tmp_path / "twin.yaml")
    quick = ("--track", "batch", "--no-grid", "--sampler", "gp", "--trials", "3", "--seeds", "1")
    told = run(*quick, "--prior", tmp_path / "twin.yaml", "--out", tmp_path / "study")
    assert told.exit_code == 0, told.output
    first, *others = (Limits.from_dict(trial["limits"]) for trial in results(tmp_path / "study")["trials"])
    assert first.batch_size == 256
    assert 256 not in {limits.batch_size for limits in others}
    assert "twin.yaml" in results(tmp_path / "study")["origin"]["prior"]


def test_a_bound_on_refusals_is_a_constraint(run, tmp_path):
    told = run("--trials", "6", "--no-grid", "--max-refused", "0", "--out", tmp_path)
    assert told.exit_code == 0, told.output
    trials = results(tmp_path)["trials"]
    assert all("refused" in trial["constraints"] for trial in trials if "constraints" in trial)
    best = Limits.from_dict(results(tmp_path)["limits"])
    queues = {trial["limits"]["max_queued_tokens"] for trial in trials}
    assert best.max_queued_tokens is None or len(queues) == 1


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


DAMAGE = {
    "cut": lambda journal: journal[:-40],
    "zeros": lambda journal: journal + bytes(512),
    "begun": lambda journal: journal + b'{"op_code":4,"worker_id":"x","tri',
    "garbled": lambda journal: journal[:-400] + b"\xff" * 80 + journal[-320:],
    "begun and gone on with": lambda journal: journal + b'{"op_code":4,' + journal.splitlines(keepends=True)[-1],
}


@pytest.mark.parametrize("damage", list(DAMAGE))
def test_a_damaged_journal_is_named_and_its_whole_lines_are_used(run, tmp_path, damage):
    options = ("--sampler", "random", "--no-grid", "--check-seeds", "0", "--out", tmp_path)
    assert run("--trials", "3", *options).exit_code == 0
    journal = tmp_path / "study.journal"
    # As if another process had run it, which is gone: what it left running is then told as failed.
    kept = journal.read_bytes().replace(b'"pid":%d' % os.getpid(), b'"pid":1')
    journal.write_bytes(DAMAGE[damage](kept))
    told = run("--trials", "5", *options, "--resume")
    assert told.exit_code == 0, told.output
    assert f"{journal} is damaged from line" in told.output
    assert [trial["state"] for trial in results(tmp_path)["trials"]][:2] == ["complete", "complete"]
    assert sum(trial["state"] == "complete" for trial in results(tmp_path)["trials"]) == 5
    assert (tmp_path / "study.journal.damaged").stat().st_size > 0
    assert "is damaged from line" not in run("--trials", "5", *options, "--resume").output


@pytest.mark.parametrize(
    ("changes", "difference"),
    [
        (("--sampler", "tpe"), "sampler was 'random', asked 'tpe'"),
        (("--seed", "7"), "seeds was [0, 1], asked [7, 8]"),
        (("--device", "H100-80GB"), "scenario.device was 'A10', asked 'H100"),
        (("--min-attainment", "0.5"), "min_attainment was 0.0, asked 0.5"),
        (("--track", "limits"), "track was 'batch', asked 'limits'"),
    ],
)
def test_a_study_that_differs_is_not_begun_anew_but_told(run, tmp_path, changes, difference):
    options = ("--track", "batch", "--sampler", "random", "--trials", "1", "--no-grid", "--check-seeds", "0")
    assert run(*options, "--out", tmp_path).exit_code == 0
    before = (tmp_path / "study.journal").read_bytes()
    told = run(*options, *changes, "--out", tmp_path, "--resume")
    assert told.exit_code == 2
    assert difference in told.output
    assert (tmp_path / "study.journal").read_bytes() == before
    assert run(*options, *changes, "--out", tmp_path, "--overwrite").exit_code == 0


def test_a_first_resume_on_a_shared_storage_begins_the_study(run, tmp_path):
    shared = ("--storage", f"sqlite:///{tmp_path}/shared.db", "--no-grid", "--check-seeds", "0", "--trials", "1")
    assert run(*shared, "--out", tmp_path / "one", "--resume").exit_code == 0


KILLED_WITH_THE_LOCK = """
import os, signal
import optuna.storages.journal._file as journal
whole = os.fsync
def killed(descriptor):
    whole(descriptor)
    if os.path.exists("study/study.journal") and os.path.getsize("study/study.journal") > 3000:
        os.kill(os.getpid(), signal.SIGKILL)
journal.os.fsync = killed
from batchpilot.runners.main import app; app()
"""


def test_a_run_killed_while_it_writes_is_resumed_from_a_relative_folder(tiny_file, tmp_path):
    words = ["tune", "--scenario", str(tiny_file), "--seeds", "1", "--no-grid", "--check-seeds", "0", "--out", "study"]
    command = [sys.executable, "-c", KILLED_WITH_THE_LOCK, *words, "--trials", "50"]
    assert subprocess.run(command, cwd=tmp_path, timeout=300).returncode == -signal.SIGKILL
    link = tmp_path / "study" / "study.journal.lock"
    assert not link.is_symlink()
    link.symlink_to("study/study.journal")  # what an earlier version left behind, which pointed nowhere
    again = [sys.executable, "-c", TUNE, *words, "--trials", "6", "--resume"]
    told = subprocess.run(again, cwd=tmp_path, timeout=300, capture_output=True, text=True)
    assert told.returncode == 0, told.stderr
    states = [trial["state"] for trial in results(tmp_path / "study")["trials"]]
    assert states.count("complete") + states.count("pruned") >= 6


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
    _, said = process.communicate(timeout=300)
    assert process.returncode == 130
    assert "trials are kept" in said
    assert "--resume" in said
    assert "Traceback" not in said


def test_tokens_a_joule_are_what_the_energy_model_says_of_the_run(tiny):
    goodput, energy = SimulatedBench(tiny), SimulatedBench(tiny, ENERGY)
    limits = Limits(32, 2048, ttft_guard=1.0)
    figures, run = energy.run(limits, 0), energy.prepared(0)
    engine = SimulatedEngine(run.engine, run.requests)
    result = run_engine(engine, limits, window_ms=run.window_ms, horizon_ms=run.horizon_ms)
    good = result.generated_tokens[result.slo_met].sum()
    power = powers()["A10"]
    seconds = result.elapsed_ms / 1000.0
    assert good / (power.peak_w * seconds) < figures.value < good / (power.idle * seconds)
    assert figures.slo_attainment == goodput.run(limits, 0).slo_attainment


def test_tokens_a_joule_need_the_power_of_the_device(run, tmp_path):
    told = run("--objective", ENERGY, "--device", "M3-Ultra", "--trials", "1", "--out", tmp_path)
    assert told.exit_code == 2
    assert "the power of M3-Ultra is not known" in told.output


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
        (("--backend", "torch", "--jobs", "2"), "--jobs above 1"),
        (("--backend", "torch", "--objective", "tokens-per-joule"), "--objective tokens-per-joule"),
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
