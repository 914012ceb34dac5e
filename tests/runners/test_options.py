"""Options mean the same in every command: each has an effect or is refused; what was chosen stands in the results."""

import csv
import json

import pytest
import yaml
from typer.testing import CliRunner

from batchpilot.configs.scenario import load_scenario
from batchpilot.latency import SaturationParameters
from batchpilot.runners.leaderboard.evaluation import Task
from batchpilot.runners.main import app
from batchpilot.runners.selection import Changes

SLOW = SaturationParameters(p_max=4.0, k_b=0.3, k_s=0.05, w_0=10.0, tau_0=9.0, tau_b=0.2, tau_c=1e-4)
"""An engine that no catalogued device is as slow as."""


@pytest.fixture
def run(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    return lambda *arguments: CliRunner().invoke(app, [str(argument) for argument in arguments])


@pytest.fixture
def latency_file(tmp_path):
    entry = {
        "device": "A10",
        "model": "Qwen3-0.6B",
        "parameters": SLOW.to_dict(),
        "kind": "measured",
        "source": "my.csv",
    }
    (tmp_path / "latency.yaml").write_text(yaml.safe_dump(entry))
    return tmp_path / "latency.yaml"


def asked(run, *arguments):
    done = run(*arguments, "--json")
    assert done.exit_code == 0, done.output
    return json.loads(done.stdout)


def test_simulate_serves_at_the_measured_latency_under_the_given_promise(run, tiny_file, latency_file):
    catalogued = asked(run, "simulate", tiny_file)
    measured = asked(run, "simulate", tiny_file, "--parameters", latency_file, "--ttft-ms", 700, "--tpot-ms", 45)
    assert "measured: latency.yaml (Qwen3-0.6B on A10, my.csv)" in measured["latency"]
    assert measured["promise"] == "TTFT 700 ms, TPOT 45 ms"
    assert measured["tpot_p50_ms"] > catalogued["tpot_p50_ms"]
    assert "of the estimated capacity" in measured["load"]


def test_a_promise_decides_what_counts_as_kept(run, tiny_file):
    loose, tight = (
        asked(run, "simulate", tiny_file, "--ttft-ms", target, "--tpot-ms", target) for target in ("inf", 0.5)
    )
    assert loose["promise"] == "none"
    assert loose["slo_attainment"] > tight["slo_attainment"] == 0.0


def test_int8_weights_leave_more_room(run, tiny_file):
    assert (
        asked(run, "simulate", tiny_file, "--dtype", "int8")["kv_capacity_tokens"]
        > asked(run, "simulate", tiny_file)["kv_capacity_tokens"]
    )


def test_leaderboard_states_promise_load_hardware_and_latency_in_table_and_files(
    run, tiny_file, latency_file, tmp_path
):
    command = ("leaderboard", "--scenario", tiny_file, "--tuners", "static-8", "--seeds", 1, "--out", "out")
    done = run(*command, "--parameters", latency_file, "--ttft-ms", 700)
    assert done.exit_code == 0, done.output
    row = next(csv.DictReader((tmp_path / "out/results.csv").open()))
    assert row["promise"] == "TTFT 700 ms, TPOT 100 ms"
    assert "latency.yaml" in row["latency"]
    summary = list(csv.DictReader((tmp_path / "out/summary.csv").open()))
    assert {one["promise"] for one in summary} == {row["promise"]}
    for told in (done.output, (tmp_path / "out/report.html").read_text()):
        assert "What was promised" in told
        assert "TTFT 700 ms" in " ".join(told.split())


def test_compare_runs_on_the_measured_latency(run, latency_file):
    command = ("compare", "--seeds", 1, "--tuners", "static-8")
    catalogued = asked(run, *command, "--device", "A10", "--model", "Qwen3-0.6B")["rows"]
    measured = asked(run, *command, "--parameters", latency_file, "--tpot-ms", 1)["rows"]
    for before, after in zip(catalogued, measured, strict=True):
        assert after["throughput_tokens_per_s"] < before["throughput_tokens_per_s"]
        assert after["slo_attainment"] == 0.0 < before["slo_attainment"]
        assert "latency.yaml" in after["latency"]


def test_plan_needs_no_device_that_the_parameter_file_names(run, latency_file):
    command = ("plan", "--workload", "200,20", "--seeds", 1, "--duration-s", 5, "--tpot-ms", 200)
    planned = asked(run, *command, "--parameters", latency_file)
    catalogued = asked(run, *command, "--device", "A10", "--model", "Qwen3-0.6B")
    assert (planned["device"], planned["model"]) == ("A10", "Qwen3-0.6B")
    assert "latency.yaml" in planned["latency"]
    assert planned["promise"].endswith("TTFT 2000 ms, TPOT 200 ms")
    assert planned["rate_per_s"] < catalogued["rate_per_s"]
    refused = run(*command)
    assert (refused.exit_code, "--model is missing" in refused.output) == (2, True)
    assert "where --device is missing, all are compared" in refused.output


def test_tune_tries_limits_on_the_measured_latency(run, tiny_file, latency_file, tmp_path):
    pytest.importorskip("optuna")
    command = (
        "tune",
        "--scenario",
        tiny_file,
        "--trials",
        1,
        "--seeds",
        1,
        "--check-seeds",
        0,
        "--no-grid",
        "--out",
        "t",
    )
    told = asked(run, *command, "--parameters", latency_file, "--tpot-ms", 70)
    assert "latency.yaml" in told["origin"]["latency"]
    assert told["origin"]["promise"] == "TTFT 2000 ms, TPOT 70 ms"
    assert "TPOT 70 ms" in (tmp_path / "t/report.html").read_text()


def test_a_scenario_file_names_its_parameters_and_its_promise(run, tiny_file, latency_file):
    data = yaml.safe_load(tiny_file.read_text())
    tiny_file.write_text(yaml.safe_dump(data | {"parameters": latency_file.name, "promise": {"tpot_ms": 77}}))
    told = asked(run, "simulate", tiny_file)
    assert "latency.yaml" in told["latency"]
    assert told["promise"] == "TTFT 2000 ms, TPOT 77 ms"


def test_latency_of_other_hardware_is_refused_by_name(run, tiny_file, latency_file):
    refused = run("simulate", tiny_file, "--parameters", latency_file, "--device", "H100-80GB")
    assert refused.exit_code == 2
    assert "measured with device A10, not H100-80GB" in refused.output


def test_a_cell_is_another_when_the_parameter_file_holds_something_else(tiny_file, latency_file):
    def fingerprint():
        scenario = Changes(parameters=latency_file).of(load_scenario(tiny_file))
        return Task(scenario, 0, "guarded", ("static-8",)).fingerprint

    before = fingerprint()
    latency_file.write_text(latency_file.read_text().replace("p_max: 4.0", "p_max: 5.0"))
    assert fingerprint() != before


MEASURE = ("calibrate", "--measurements", "steps.csv")
LOAD = ("load", "--url", "http://127.0.0.1:9", "--scenario", "closed-loop-8")
GATEWAY = ("gateway", "--upstream", "http://127.0.0.1:9")


@pytest.mark.parametrize(
    ("command", "option"),
    [
        (("simulate", "quick-chat"), ("--track", "guarded")),
        (("simulate", "quick-chat", "--limits", "8"), ("--config", "default")),
        (("simulate", "quick-chat", "--tuner", "static-best"), ("--config", "default")),
        *((("leaderboard",), option) for option in (("--rate", "1"), ("--start-s", "0"), ("--format", "azure2023"))),
        (("leaderboard",), ("--duration-s", "10")),
        (("leaderboard",), ("--skip-bad-rows",)),
        (("leaderboard",), ("--traces", "folder")),
        (("leaderboard", "--scenario", "quick-chat"), ("--suite", "quick")),
        (("leaderboard", "--trace", "t.csv"), ("--suite", "quick")),
        (("leaderboard", "--trace", "t.csv"), ("--scenario", "quick-chat")),
        (("tune", "--scenario", "quick-chat"), ("--rate", "2")),
        (("tune", "--scenario", "quick-chat"), ("--requests", "60")),
        (("tune", "--scenario", "quick-chat", "--backend", "torch"), ("--grid",)),
        (("tune", "--scenario", "quick-chat", "--backend", "torch"), ("--tensor-parallel", "2")),
        (("compare", "--backend", "torch"), ("--tensor-parallel", "2")),
        *((MEASURE, option) for option in (("--dtype", "float32"), ("--threads", "1"), ("--limits", "8"))),
        *(
            (MEASURE, option)
            for option in (("--trials", "2"), ("--repeats", "2"), ("--steps", "s.csv"), ("--overwrite",))
        ),
        (("calibrate", "--engine", "torch", "--model", "tiny-llama"), ("--columns", "a=b")),
        (("calibrate", "--engine", "torch", "--model", "tiny-llama"), ("--tensor-parallel", "2")),
        (("validate", "--model", "tiny-llama", "--scenario", "quick-chat"), ("--load", "0.6")),
        (("validate", "--model", "tiny-llama", "--parameters", "latency.yaml"), ("--trials", "2")),
        (("serve", "--model", "tiny-llama", "--ttft-ms", "9", "--tpot-ms", "9"), ("--slo", "batch")),
        *(((*GATEWAY, "--limits", "8"), option) for option in (("--tuner", "aimd"), ("--track", "batch"))),
        *(((*GATEWAY, "--limits", "8"), option) for option in (("--seed", "1"), ("--parameters", "latency.yaml"))),
        (LOAD, ("--format", "azure2023")),
        (LOAD, ("--overwrite",)),
        (LOAD, ("--track", "guarded")),
        *((LOAD, option) for option in (("--device", "A10"), ("--dtype", "int8"), ("--parameters", "latency.yaml"))),
    ],
    ids=lambda part: " ".join(part),
)
def test_an_option_that_would_change_nothing_is_refused(run, command, option):
    refused = run(*command, *option)
    told = " ".join(refused.output.split())
    assert refused.exit_code == 2, told
    assert option[0] in told
    assert "would change nothing" in told or "cannot be given with --backend torch" in told


@pytest.mark.parametrize("option", ["--ttft-ms", "--tpot-ms"])
@pytest.mark.parametrize(
    "command", [("simulate", "quick-chat"), ("leaderboard",), ("compare",), ("tune", "--scenario", "quick-chat")]
)
def test_a_promise_of_nothing_is_refused(run, command, option):
    if command[0] == "tune":
        pytest.importorskip("optuna")
    refused = run(*command, option, 0)
    assert (refused.exit_code, "a promise is above 0 ms" in refused.output) == (2, True), refused.output


@pytest.mark.parametrize(
    "command", [("simulate", "quick-chat"), ("leaderboard", "--scenario", "quick-chat"), ("compare",)]
)
def test_an_unknown_dtype_is_answered_with_the_known_ones(run, command):
    refused = run(*command, "--dtype", "int3")
    assert (refused.exit_code, "int4" in refused.output) == (2, True), refused.output
