"""`batchpilot calibrate`, run as a user runs it."""

import json

import numpy as np
import pytest
import typer
import yaml
from typer.testing import CliRunner

from batchpilot.latency import SaturationParameters
from batchpilot.runners.calibration.command import calibrate

TRUTH = SaturationParameters(p_max=8.0, k_b=0.3, k_s=0.01, w_0=20.0, tau_0=6.0, tau_b=0.3, tau_s=0.02)


@pytest.fixture
def run(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("COLUMNS", "120")
    app = typer.Typer()
    app.command()(calibrate)
    runner = CliRunner()
    return lambda *arguments: runner.invoke(app, [str(argument) for argument in arguments])


@pytest.fixture
def measured(tmp_path):
    """A hundred steps of a known model with 2 % noise, one of them failed."""
    rng = np.random.default_rng(0)
    B = rng.integers(1, 65, 100)
    S = B * rng.integers(1, 60, 100)
    T = TRUTH.predict(B, S) * np.exp(0.02 * rng.standard_normal(100))
    lines = [f"{b},{s},{t:.4f},A100-80GB" for b, s, t in zip(B, S, T, strict=True)]
    path = tmp_path / "steps.csv"
    path.write_text("\n".join(["batch_size,tokens,latency_ms,device", *lines, "4,4,0.01,A100-80GB"]) + "\n")
    return path


def test_tables_show_models_side_by_side_and_parameters_with_intervals(run, measured):
    result = run("--measurements", measured)
    assert result.exit_code == 0, result.output
    for text in ("linear (relative)", "polynomial", "saturation", "95 % interval", "tau_0", "1 at or below 0.1 ms"):
        assert text in result.output
    assert "no roofline beside it" in result.output


def test_parameters_written_are_read_back_and_predict(run, measured, tmp_path):
    command = ("--measurements", measured, "--model", "llama2-7b", "--out", "params.yaml", "--report", "report.html")
    result = run(*command)
    assert result.exit_code == 0, result.output
    found = SaturationParameters.from_yaml(tmp_path / "params.yaml")
    assert found.predict_one(16, 512) == pytest.approx(TRUTH.predict_one(16, 512), rel=0.03)
    entry = yaml.safe_load((tmp_path / "params.yaml").read_text())
    assert (entry["device"], entry["model"], entry["kind"]) == ("A100-80GB", "Llama-2-7B", "measured")
    assert entry["points"] == 100
    assert entry["mean_relative_error"] < 0.03
    assert "roofline" in result.output
    report = (tmp_path / "report.html").read_text()
    assert report.count("<svg") == 3
    assert "Line without context, batch of" in report
    assert "<script" not in report


def test_files_are_not_overwritten_without_being_told(run, measured):
    command = ("--measurements", measured, "--out", "params.yaml")
    assert run(*command).exit_code == 0
    refused = run(*command)
    assert refused.exit_code == 2
    assert "--overwrite" in refused.output
    assert run(*command, "--overwrite").exit_code == 0


def test_json_is_for_machines_even_where_figures_are_missing(run, measured):
    result = run("--measurements", measured, "--json", "--fix", "tau_s=0,k_b=0.3")
    assert result.exit_code == 0, result.output
    found = json.loads(result.stdout)
    assert found["parameters"]["tau_s"] == 0.0
    assert found["parameters"]["k_b"] == 0.3
    assert found["dropped"]["too_short"] == 1
    assert [entry["name"] for entry in found["models"]][-1] == "saturation"
    assert found["degenerate"] is False


def test_steps_that_determine_nothing_are_called_so_everywhere(run, tmp_path):
    (tmp_path / "one.csv").write_text("B,S,T\n" + "8,8,20.5\n" * 30)
    result = run(
        "--measurements", "one.csv", "--columns", "batch_size=B,tokens=S,latency_ms=T", "--out", "params.yaml",
        "--report", "report.html",
    )  # fmt: skip
    assert result.exit_code == 0, result.output
    assert "problem: 1 different steps" in result.output
    assert "problem: every step has B = 8" in result.output
    assert "Do not trust" in result.output
    assert "Problems" in (tmp_path / "report.html").read_text()
    assert len(yaml.safe_load((tmp_path / "params.yaml").read_text())["problems"]) >= 3


@pytest.mark.parametrize(
    ("arguments", "says"),
    [
        ((), "--measurements FILE.csv"),
        (("--engine", "torch"), "no model to measure"),
        (("--engine", "torhc", "--model", "tiny-llama"), "did you mean 'torch'"),
        (("--engine", "torch", "--measurements", "steps.csv"), "give one of these"),
        (("--measurements", "nowhere.csv"), "nowhere.csv"),
        (("--measurements", "steps.csv", "--columns", "batch_size"), "not of the form name=value"),
        (("--measurements", "steps.csv", "--columns", "tokens=token"), "did you mean 'tokens'"),
        (("--measurements", "steps.csv", "--fix", "k_b=much"), "expected numbers"),
        (("--measurements", "steps.csv", "--loss", "log"), "unknown loss 'log'"),
        (("--measurements", "steps.csv", "--device", "H100"), "unknown device in device 'H100'"),
        (("--measurements", "steps.csv", "--min-ms", "1e6", "--max-ms", "1e7"), "no step is left"),
    ],
)
def test_a_mistake_is_one_line_and_status_2(run, measured, arguments, says):
    result = run(*arguments)
    assert result.exit_code == 2
    assert says in result.output
    assert "Traceback" not in result.output
