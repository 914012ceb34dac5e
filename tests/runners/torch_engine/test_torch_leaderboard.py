"""`leaderboard` and `compare` with `--backend torch`, run as a user runs them, on a model of two narrow layers."""

import csv
import json

import pytest
import yaml
from typer.testing import CliRunner

from batchpilot.latency import SaturationParameters
from batchpilot.runners.main import app

TORCH = ("--backend", "torch", "--model", "tiny-llama")
LENGTHS = {
    "kind": "lognormal",
    "prompt_tokens": {"median": 12, "sigma": 0.5, "max": 40},
    "output_tokens": {"median": 5, "sigma": 0.5, "max": 12},
}


@pytest.fixture
def run(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("COLUMNS", "120")
    runner = CliRunner()
    return lambda *arguments: runner.invoke(app, [str(argument) for argument in arguments])


@pytest.fixture
def small():
    """Options of a small engine that is known already, so that nothing needs to be calibrated."""
    pytest.importorskip("torch")
    pytest.importorskip("transformers")
    SaturationParameters(p_max=30.0, k_b=10.0, k_s=1.0, tau_0=4.0, tau_b=0.05).to_yaml("known.yaml")
    return (*TORCH, "--threads", "1", "--kv-capacity-tokens", "4096", "--parameters", "known.yaml")


@pytest.fixture
def scenario_file(tmp_path):
    def written(name, **rest):
        phases = [{"duration_s": 1, "arrivals": {"kind": "poisson", "load": 0.5}, "lengths": LENGTHS}]
        data = {"name": name, "description": "A test.", "family": "stationary", "device": "A10", "model": "Llama-3-8B"}
        path = tmp_path / f"{name}.yaml"
        path.write_text(yaml.safe_dump(data | {"decision_interval_ms": 250, "workload": {"phases": phases}} | rest))
        return path

    return written


def test_strategies_are_ranked_on_a_real_engine_and_the_results_say_which(run, small, scenario_file, tmp_path):
    board = ("leaderboard", *small, "--scenario", scenario_file("brief"), "--seeds", "1", "--track", "batch")
    result = run(*board, "--tuners", "static-8,dynamic,static-best", "--out", "out", "--json")
    assert result.exit_code == 0, result.output
    ranked = {row["tuner"] for row in json.loads(result.stdout)}
    assert ranked == {"static-8", "dynamic", "static-best"}
    rows = list(csv.DictReader((tmp_path / "out/results.csv").open()))
    assert {row["model"] for row in rows} == {"tiny-llama"}
    assert all("processor time of its one thread" in row["latency"] for row in rows)
    assert all("threads" in row["device"] and "float32" in row["latency"] for row in rows)
    assert all(float(row["throughput_tokens_per_s"]) > 0 for row in rows)
    report = (tmp_path / "out/report.html").read_text()
    assert "tiny-llama" in report
    assert "searched on its calibrated simulation" in report

    assert "--resume" in run(*board, "--tuners", "static-8", "--out", "out").output
    kept = json.loads((tmp_path / "out/engine.json").read_text())
    cells = {path.name: path.stat().st_mtime_ns for path in (tmp_path / "out/cells").iterdir()}
    again = run(*board, "--tuners", "static-8,dynamic,static-best", "--out", "out", "--resume", "--json")
    assert again.exit_code == 0, again.output
    assert json.loads((tmp_path / "out/engine.json").read_text()) == kept
    assert {path.name: path.stat().st_mtime_ns for path in (tmp_path / "out/cells").iterdir()} == cells


def test_an_engine_that_nobody_knows_is_calibrated_first(run, small, scenario_file, tmp_path):
    unknown = (*TORCH, "--threads", "1", "--kv-capacity-tokens", "1024")
    board = ("leaderboard", *unknown, "--scenario", scenario_file("brief"), "--seeds", "1", "--tuners", "static-8")
    result = run(*board, "--out", "out")
    assert result.exit_code == 0, result.output
    kept = json.loads((tmp_path / "out/engine.json").read_text())
    assert kept["kv_capacity_tokens"] == 1024
    assert "calibrated just before" in kept["source"]
    assert SaturationParameters.from_dict(kept["latency"]).predict_one(8, 8) > 0


def test_the_closed_loop_is_served_by_a_real_engine(run, small):
    result = run("compare", *small, "--seeds", "1", "--tuners", "static-32", "--json")
    assert result.exit_code == 0, result.output
    rows = json.loads(result.stdout)["rows"]
    assert [row["scenario"] for row in rows] == [f"torch-closed-loop-{clients}" for clients in (8, 16, 24, 32)]
    assert all(row["success_rate"] == 1.0 and row["throughput_tokens_per_s"] > 0 for row in rows)


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (("leaderboard", "--backend", "toch"), "unknown backend 'toch'; did you mean 'torch'"),
        (("compare", "--threads", "1"), "--threads cannot be given with --backend simulated"),
        (("leaderboard", *TORCH, "--jobs", "2"), "--jobs above 1 cannot be given with --backend torch"),
        (("leaderboard", *TORCH, "--tensor-parallel", "2"), "--tensor-parallel cannot be given with --backend torch"),
        (("leaderboard", *TORCH, "--scenario", "drift-throttle-a100"), "has drift (throttle)"),
    ],
)
def test_options_that_do_not_fit_the_backend_are_refused_before_anything_starts(run, arguments, message):
    result = run(*arguments)
    assert result.exit_code == 2
    assert message in result.output


def test_a_damaged_record_of_the_engine_is_refused(run, small, scenario_file, tmp_path):
    (tmp_path / "out").mkdir()
    (tmp_path / "out/engine.json").write_text("{}")
    result = run("leaderboard", *small, "--scenario", scenario_file("brief"), "--out", "out", "--resume")
    assert result.exit_code == 2
    assert "does not describe an engine" in result.output
