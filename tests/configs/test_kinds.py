"""A file given to the wrong option says what it is and who reads it, and each kind is told from every other."""

import json

import pytest
import yaml
from typer.testing import CliRunner

from batchpilot.configs.kinds import KINDS, kind_of, wrong_kind
from batchpilot.core.limits import Limits
from batchpilot.latency import SaturationParameters
from batchpilot.runners.main import app
from batchpilot.runners.selection import parse_limits
from batchpilot.runners.tuning.files import limits_yaml, vllm_yaml

LIMITS = Limits(48, token_budget=1024, ttft_guard=0.9)
LATENCY = {"device": "A10", "parameters": SaturationParameters(10.0, 0.1, 0.01).to_dict(), "kind": "measured"}
FILES = {
    "tuner": "dynamic_batch_tuner: {strategy: hybrid}\n",
    "latency": yaml.safe_dump(LATENCY),
    "limits": limits_yaml(LIMITS, ["found somewhere"]),
    "vllm": vllm_yaml(LIMITS, []),
    "training": "batchpilot/Batching-v0: {n_timesteps: 1}\n",
    "latencies": "entries: []\n",
}
READERS = {
    "tuner": lambda file: ("simulate", "quick-chat", "--tuner", "hybrid", "--config", file),
    "latency": lambda file: ("simulate", "quick-chat", "--parameters", file),
    "limits": lambda file: ("simulate", "quick-chat", "--limits", file),
    "scenario": lambda file: ("simulate", file),
    "training": lambda file: ("train", "--config", file, "--out", "trained"),
}


@pytest.fixture
def files(tmp_path, monkeypatch, tiny_file):
    monkeypatch.chdir(tmp_path)
    written = {"scenario": tiny_file}
    for kind, text in FILES.items():
        written[kind] = tmp_path / f"{kind}.yaml"
        written[kind].write_text(text)
    return written


@pytest.fixture
def tiny_file(tmp_path):
    path = tmp_path / "tiny.yaml"
    arrivals, lengths = (
        {"kind": "poisson", "rate_per_s": 2.0},
        {"kind": "fixed", "prompt_tokens": 9, "output_tokens": 4},
    )
    phase = {"duration_s": 4, "arrivals": arrivals, "lengths": lengths}
    scenario = {"name": "tiny", "description": "Four seconds.", "family": "stationary"}
    path.write_text(
        yaml.safe_dump(scenario | {"device": "A10", "model": "Qwen3-0.6B", "workload": {"phases": [phase]}})
    )
    return path


@pytest.mark.parametrize("wanted", READERS)
@pytest.mark.parametrize("given", [*FILES, "scenario"])
def test_a_file_of_another_kind_is_named_with_its_reader(files, given, wanted):
    if given == wanted:
        assert kind_of(yaml.safe_load(files[given].read_text())) == given
        return
    if wanted == "training":
        pytest.importorskip("stable_baselines3")
    refused = CliRunner().invoke(app, list(READERS[wanted](str(files[given]))))
    told = " ".join(refused.output.split())
    assert refused.exit_code == 2, told
    assert f"holds {KINDS[given].what}, which {KINDS[given].reader} reads" in told


@pytest.mark.parametrize("given", ["latency", "limits", "vllm", "training"])
def test_validate_says_what_it_cannot_check(files, given):
    told = CliRunner().invoke(app, ["config", "validate", str(files[given])])
    assert told.exit_code == 1
    assert KINDS[given].what in told.output


def test_the_limits_that_were_found_are_the_limits_that_run(files):
    assert parse_limits(str(files["limits"])) == LIMITS
    done = CliRunner().invoke(app, ["simulate", str(files["scenario"]), "--limits", str(files["limits"]), "--json"])
    assert json.loads(done.stdout)["final_limits"] == str(LIMITS)


def test_a_file_of_no_kind_is_left_to_its_reader():
    assert wrong_kind("x.yaml", {"something": 1}, "scenario") == ""
    assert kind_of([1, 2]) is None
