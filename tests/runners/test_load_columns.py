"""`batchpilot load --backend torch --compare`: one model, one tuner and one promise in three columns."""

import json

import pytest

pytest.importorskip("torch")
pytest.importorskip("fastapi")
pytest.importorskip("uvicorn")

from typer.testing import CliRunner

from batchpilot.runners.http.load.own_server import own_server
from batchpilot.runners.main import app


@pytest.fixture
def parameters(tmp_path):
    """Of an engine whose steps take 20 ms, so that the load is light wherever the test runs."""
    from batchpilot.latency.model.saturation import SaturationParameters

    path = tmp_path / "latency.yaml"
    SaturationParameters(p_max=10.0, k_b=50.0, k_s=50.0, tau_0=20.0, tau_b=1.0).to_yaml(path)
    return path


def test_columns_serve_the_same_requests_and_their_promises_stand_beside_them(parameters, tmp_path):
    out = tmp_path / "out"
    arguments = ["load", "--backend", "torch", "--model", "tiny-llama", "--threads", "1", "--tuner", "policy-guarded"]
    arguments += ["--kv-capacity-tokens", "16384", "--parameters", str(parameters), "--scenario", "torch-steady"]
    arguments += ["--duration-s", "2", "--grace-s", "20", "--ttft-ms", "60000", "--tpot-ms", "60000", "--compare"]
    told = CliRunner().invoke(app, [*arguments, "--out", str(out), "--json"])
    assert told.exit_code == 0, told.output
    found = json.loads((out / "results.json").read_text())
    columns = found["columns"]
    assert list(columns) == ["simulated", "in process"]
    assert found["column"] == "over HTTP"
    assert found["requests"] > 5
    for column in (*columns.values(), found):
        assert column["requests"] == column["ended_length"] == found["requests"]
        assert column["goodput_fraction"] == 1.0
        assert column["ttft_p50_ms"] > 0
    prompts = [rows["prompt_tokens"] for rows in (columns["in process"]["per_request"], found["per_request"])]
    assert prompts[0] == prompts[1]
    assert found["served_model"] == "tiny-llama"
    page = (out / "report.html").read_text()
    assert all(name in page for name in ("simulated", "in process", "over HTTP"))


def test_a_scenario_of_padded_batches_is_refused_where_the_server_has_none(parameters):
    arguments = ["load", "--backend", "torch", "--model", "tiny-llama", "--kv-capacity-tokens", "16384"]
    told = CliRunner().invoke(app, [*arguments, "--parameters", str(parameters), "--scenario", "padded-a100"])
    assert told.exit_code == 2
    assert "static batches" in told.output


def test_a_server_that_does_not_start_says_why():
    with (
        pytest.raises(ValueError, match=r"did not get ready.*no-such-tuner"),
        own_server(["--model", "tiny-llama", "--tuner", "no-such-tuner"]),
    ):
        pass
