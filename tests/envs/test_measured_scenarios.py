"""A parameter file's noise and way to the engine reach the runs and plans that are made on it."""

import json

import pytest
from typer.testing import CliRunner

from batchpilot.configs.scenario import EngineSpec
from batchpilot.envs.scenarios import prepare
from batchpilot.latency.model.parameter_file import read_parameters
from batchpilot.runners.main import app
from batchpilot.runners.selection import find_scenario

MEASURED = """parameters: {p_max: 8.0, k_b: 10.0, k_s: 0.04, tau_0: 8.0, tau_b: 0.1, tau_c: 1.0e-4}
noise: 0.21
front_ms: 80.0
"""


@pytest.fixture
def measured(tmp_path):
    path = tmp_path / "latency.yaml"
    path.write_text(MEASURED)
    return path


def test_a_run_has_the_noise_and_the_way_that_were_measured(measured):
    scenario = find_scenario("quick-chat").model_copy(update={"parameters": measured})
    engine = prepare(scenario, 0).engine
    assert (engine.noise, engine.front_ms) == (0.21, 80.0)


def test_a_scenario_that_states_its_noise_keeps_it(measured):
    changes = {"parameters": measured, "engine": EngineSpec(noise=0.03)}
    assert prepare(find_scenario("quick-chat").model_copy(update=changes), 0).engine.noise == 0.03


def test_a_file_that_says_nothing_of_them_changes_nothing(measured):
    measured.write_text(MEASURED.splitlines()[0])
    read = read_parameters(measured)
    assert (read.noise, read.front_ms) == (None, 0.0)
    engine = prepare(find_scenario("quick-chat").model_copy(update={"parameters": measured}), 0).engine
    assert (engine.noise, engine.front_ms) == (0.05, 0.0)


@pytest.mark.parametrize("line", ["noise: -0.1", "front_ms: far", "noise: true", "front_ms: .nan"])
def test_what_is_no_time_or_share_is_refused_with_the_file(measured, line):
    measured.write_text(MEASURED.splitlines()[0] + "\n" + line)
    with pytest.raises(ValueError, match=rf"latency.yaml: {line.partition(':')[0]} is .*; it must be a number >= 0"):
        read_parameters(measured)


def plan(measured, ttft_ms):
    asked = f"plan --parameters {measured} --device H100-80GB --model Llama-3-8B --workload 256,64"
    return CliRunner().invoke(app, [*asked.split(), "--ttft-ms", str(ttft_ms), "--tpot-ms", "50", "--json"])


def test_a_way_to_the_engine_that_takes_the_whole_promise_cannot_be_planned_for(measured):
    done = plan(measured, 80)
    assert done.exit_code == 2
    assert "the way to the engine and back alone takes 80 ms" in " ".join(done.output.split())


def test_a_plan_leaves_room_for_the_way(measured):
    held = {}
    for front in (0, 1200):
        measured.write_text(MEASURED.replace("front_ms: 80.0", f"front_ms: {front}"))
        done = plan(measured, 2000)
        assert done.exit_code == 0, done.output
        held[front] = json.loads(done.stdout)
    assert held[1200]["rate_per_s"] < held[0]["rate_per_s"]
    assert held[1200]["slo"]["ttft_ms"] == 2000
