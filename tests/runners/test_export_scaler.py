"""`batchpilot export-scaler`: what it writes is what the published schemas allow."""

import math
from pathlib import Path

import pytest
import yaml
from typer.testing import CliRunner

from batchpilot.runners.main import app

jsonschema = pytest.importorskip("jsonschema")
SCHEMAS = yaml.safe_load((Path(__file__).parents[1] / "helpers/schemas/manifests.yaml").read_text())


def export(*arguments):
    return CliRunner().invoke(app, ["export-scaler", *map(str, arguments)])


def checked(kind, *arguments):
    answer = export(*arguments)
    assert answer.exit_code == 0, answer.stderr
    made = yaml.safe_load(answer.stdout)
    validator = jsonschema.Draft202012Validator({"$ref": f"#/$defs/{kind}", "$defs": SCHEMAS["$defs"]})
    assert [error.message for error in validator.iter_errors(made)] == []
    return made


def replicas(value, current, most, average=1.0):
    """What a horizontal pod autoscaler makes of an external metric with an average value (its documented formula)."""
    usage = value / (average * current)
    return current if abs(usage - 1.0) <= 0.1 else min(math.ceil(value / average), most)


def test_keda_asks_prometheus_for_the_decision():
    made = checked("scaledobject", "vllm", "--least", 0, "--most", 6, "--selector", 'job="gateway"', "--interval-s", 15)
    (trigger,) = made["spec"]["triggers"]
    assert trigger["metadata"]["query"] == 'sum(batchpilot_desired_replicas{job="gateway"})'
    assert (made["spec"]["minReplicaCount"], made["spec"]["maxReplicaCount"]) == (0, 6)
    assert made["spec"]["pollingInterval"] == 15


def test_a_pod_autoscaler_lands_on_the_decided_number_whatever_runs_now():
    made = checked("hpa", "vllm", "--kind", "hpa", "--most", 8, "--patience-s", 60)
    (metric,) = made["spec"]["metrics"]
    average = float(metric["external"]["target"]["averageValue"])
    assert metric["external"]["metric"]["name"] == "batchpilot_desired_replicas"
    assert made["spec"]["behavior"]["scaleDown"]["stabilizationWindowSeconds"] == 60
    for current in range(1, 9):
        for wanted in range(1, 9):
            assert replicas(wanted, current, made["spec"]["maxReplicas"], average) == wanted


def test_llm_d_is_told_cost_promise_and_bounds():
    words = ("ms-qwen-decode", "--kind", "llm-d", "--model", "Qwen/Qwen3-8B", "--device", "H100", "--ttft-ms", 500)
    made = checked("llm-d", *words)
    assert made["llmd"]["modelName"] == "ms-qwen"
    assert made["va"]["sloTtft"] == 500
    assert float(made["va"]["variantCost"]) > 0
    unpriced = checked("llm-d", "q", "--kind", "llm-d", "--model", "q", "--device", "M3-Ultra")
    assert "variantCost" not in unpriced["va"]


def test_a_file_is_written_and_nothing_printed(tmp_path):
    answer = export("vllm", "--out", tmp_path / "scaler.yaml")
    assert answer.stdout == ""
    assert yaml.safe_load((tmp_path / "scaler.yaml").read_text())["kind"] == "ScaledObject"


def test_what_kubernetes_would_refuse_is_refused_here():
    for words, told in (
        (("Vllm",), "no name in Kubernetes"),
        (("vllm", "--namespace", "a_b"), "no name in Kubernetes"),
        (("vllm", "--least", 3, "--most", 2), "0 <= least <= most"),
        (("vllm", "--kind", "hpa", "--least", 0), "at least 1 replica"),
        (("vllm", "--kind", "hpa", "--prometheus", "http://p"), "--prometheus would change nothing"),
        (("vllm", "--kind", "llm-d"), "--model and --device"),
        (("vllm", "--ttft-ms", 5), "--ttft-ms would change nothing"),
        (("vllm", "--kind", "kedda"), "keda"),
    ):
        answer = export(*words)
        assert answer.exit_code == 2, words
        assert told in answer.stderr
