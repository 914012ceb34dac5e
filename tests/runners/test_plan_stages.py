"""`plan --pipeline-parallel`: an engine of stages, each batch in flight planned and simulated."""

import json

import pytest
from typer.testing import CliRunner

from batchpilot.runners.main import app

ASKED = ["plan", "--device", "A100-40GB", "--model", "Llama-2-70B", "--tensor-parallel", "2", "--dtype", "fp16"]
ASKED += ["--workload", "512,128", "--ttft-ms", "4000", "--tpot-ms", "200", "--seeds", "1", "--duration-s", "60"]


def run(*more):
    return CliRunner().invoke(app, [*ASKED, *map(str, more)])


@pytest.fixture(scope="module")
def planned():
    result = run("--pipeline-parallel", 4, "--rate", 10, "--json")
    assert result.exit_code == 0, result.output
    return json.loads(result.stdout)


def test_what_does_not_fit_on_two_devices_is_served_by_four_stages_of_two(planned):
    refused = run()
    assert refused.exit_code != 0
    assert "does not fit on 2 x A100-40GB" in " ".join(refused.output.split())
    assert (planned["tensor_parallel"], planned["pipeline_parallel"]) == (2, 4)
    fleet = planned["fleet"]
    assert fleet["devices"] == 8 * fleet["engines"]
    assert fleet["engines"] == -(-10 // planned["rate_per_s"])
    assert fleet["rate_per_device_per_s"] == pytest.approx(planned["rate_per_s"] / 8)


def test_the_engine_is_told_of_and_one_batch_in_flight_is_held_against_simulation(planned):
    assert planned["latency"].startswith("estimated: 4 stages of what was")
    assert planned["limits"]["batch_size"] % 4 == 0
    held = planned["held_in_simulation_per_s"]
    assert 0.75 < planned["closed_form_per_s"] / held < 1.1
    assert any(point["rate_per_s"] == pytest.approx(planned["rate_per_s"]) for point in planned["simulated"])
    told = " ".join(run("--pipeline-parallel", 4).output.split())
    assert "One engine of 8 x A100-40GB in 4 stages holds" in told
    assert "on one of 4 batches in flight" in told
    assert "vllm serve: --max-num-seqs" in told
    assert told.count("--tensor-parallel-size 2 --pipeline-parallel-size 4") == 2, "of vLLM and SGLang"


def test_stages_and_a_file_of_whole_steps_are_refused_together(tmp_path):
    calibrated = tmp_path / "latency.yaml"
    calibrated.write_text("p_max: 20.0\nk_b: 10.0\nk_s: 0.01\ntau_0: 10.0\n")
    result = run("--pipeline-parallel", 4, "--parameters", calibrated)
    assert result.exit_code != 0
    assert "--pipeline-parallel and --parameters are given" in " ".join(result.output.split())
