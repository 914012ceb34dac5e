"""`calibrate --engine torch` and `validate`, run as a user runs them, on a model of two narrow layers."""

import json
import time

import pytest
import yaml
from typer.testing import CliRunner

from batchpilot.latency import SaturationParameters
from batchpilot.runners.main import app
from batchpilot.runners.torch.calibration import TorchServer
from batchpilot.runners.torch.clock import step_clock

torch = pytest.importorskip("torch")
pytest.importorskip("transformers")

SMALL = ("--model", "tiny-llama", "--threads", "1", "--kv-capacity-tokens", "2048")
MEASURED = (*SMALL, "--limits", "batch_size=4,token_budget=64", "--trials", "8", "--repeats", "2")


@pytest.fixture
def run(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("COLUMNS", "120")
    runner = CliRunner()
    return lambda *arguments: runner.invoke(app, [str(argument) for argument in arguments])


def test_a_measured_engine_becomes_parameters_that_say_where_they_come_from(run, tmp_path):
    files = ("--out", "latency.yaml", "--report", "report.html", "--steps", "steps.csv")
    result = run("calibrate", "--engine", "torch", *MEASURED, *files, "--json")
    assert result.exit_code == 0, result.output
    found = json.loads(result.stdout)
    assert any("predicted from the others" in note for note in found["notes"])
    entry = yaml.safe_load((tmp_path / "latency.yaml").read_text())
    assert (entry["kind"], entry["model"]) == ("measured", "tiny-llama")
    assert "1 threads" in entry["device"]
    assert "8 workloads measured 2 times in processor time of its one thread" in entry["source"]
    assert SaturationParameters.from_yaml(tmp_path / "latency.yaml").predict_one(2, 8) > 0
    assert "tiny-llama" in (tmp_path / "report.html").read_text()

    again = run("calibrate", "--measurements", "steps.csv", "--fix", "tau_s=0", "--json")
    assert json.loads(again.stdout)["parameters"] == pytest.approx(found["parameters"], rel=0.05, abs=1e-3)


def test_a_run_and_its_simulation_stand_side_by_side(run):
    result = run("validate", *MEASURED, "--requests", "20", "--runs", "2", "--json")
    assert result.exit_code == 0, result.output
    found = json.loads(result.stdout)
    assert found["requests"] == found["finished"]["real"] == found["finished"]["simulated"] == 20
    names = [f"{name} p{q} ms" for name in ("TTFT", "TPOT", "E2E") for q in (50, 95)]
    assert list(found["figures"]) == [*names, "tokens/s"]
    for figure in found["figures"].values():
        assert figure["real"] > 0
        assert figure["error"] == pytest.approx(figure["simulated"] / figure["real"] - 1)
        assert figure["spread"] >= 0
    assert found["runs"] == 2
    assert found["timed"] == "in processor time of its one thread"
    assert found["steps"]["observations"] > 40


def test_known_parameters_are_taken_and_a_scenario_is_served(run, tmp_path):
    known = SaturationParameters(p_max=50.0, k_b=10.0, k_s=1.0, tau_0=1.0)
    (tmp_path / "latency.yaml").write_text(yaml.safe_dump({"parameters": known.to_dict()}))
    command = ("--parameters", "latency.yaml", "--scenario", "closed-loop-8", "--requests", "6", "--runs", "1")
    result = run("validate", *SMALL, *command)
    assert result.exit_code == 0, result.output
    for text in (
        "timed in processor time",
        "Real",
        "Simulated",
        "TPOT p95 ms",
        "6 requests (closed-loop-8)",
        "none of which was fitted",
    ):
        assert text in " ".join(result.output.split()), "wherever a long name of a processor breaks the lines"


@pytest.mark.parametrize(("threads", "clock"), [(1, time.thread_time), (2, time.perf_counter)])
def test_only_the_work_of_a_single_thread_is_timed_in_processor_time(threads, clock):
    before = torch.get_num_threads()
    try:
        runner = TorchServer("tiny-llama", "cpu", threads=threads, kv_capacity_tokens=256).start()
        assert step_clock(runner)[0] is clock
    finally:
        torch.set_num_threads(before)


@pytest.mark.parametrize(
    ("arguments", "says"),
    [
        (("--engine", "torhc", *SMALL), "did you mean 'torch'"),
        ((*SMALL, "--limits", "batch_size=0"), "batch_size"),
        ((*SMALL, "--limits", "batch_size=512"), "lower the largest batch"),
        ((*SMALL, "--parameters", "nowhere.yaml"), "nowhere.yaml"),
    ],
)
def test_a_mistake_is_one_line_and_status_2(run, arguments, says):
    result = run("validate", *arguments)
    assert result.exit_code == 2
    assert says in result.output
