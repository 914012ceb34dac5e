"""One model's step latency on every device, side by side."""

import json

from typer.testing import CliRunner

from batchpilot.configs.catalogue import device, devices, model
from batchpilot.latency.model.registry import find_latency
from batchpilot.runners.main import app


def told(*words):
    ended = CliRunner().invoke(app, ["catalogue", "compare", "--json", *words])
    assert ended.exit_code == 0, ended.stderr
    return json.loads(ended.stdout)


def test_every_device_has_a_row_with_the_parameters_that_plans_go_by():
    answer = told("--model", "Llama-3.1-8B", "--dtype", "fp16")
    rows = {row["device"]: row for row in answer["rows"]}
    assert len(rows) + len(answer["left_out"]) == len(devices())
    known = find_latency(device("H100-80GB"), model("Llama-3.1-8B"), 1, "fp16")
    assert rows["H100-80GB"]["p_max"] == known.parameters.p_max
    assert rows["H100-80GB"]["provenance"] == known.provenance
    assert rows["H100-80GB"]["decode of 32"] == known.parameters.predict_one(32, 32, 32 * 1024)
    assert (
        rows["H100-80GB"]["prefill of 2,048"] < rows["A100-80GB"]["prefill of 2,048"] < rows["T4"]["prefill of 2,048"]
    )
    times = [row["decode of 32"] for row in answer["rows"]]
    assert times == sorted(times)


def test_devices_without_a_link_are_in_no_group():
    names = {row["device"] for row in told("--model", "Llama-3.1-8B", "--tensor-parallel", "2")["rows"]}
    assert "H100-80GB" in names
    assert "M3-Pro" not in names


def test_an_unknown_model_is_answered_with_the_closest():
    ended = CliRunner().invoke(app, ["catalogue", "compare", "--model", "Llama-3.1-9B"])
    assert ended.exit_code == 2
    assert "Llama-3.1-8B" in ended.stderr
