"""`batchpilot config` as its users meet it: what it prints, and its exit status."""

import json

import pytest
import yaml
from typer.testing import CliRunner

from batchpilot.configs import TunerConfig, load_tuner_config, preset, presets
from batchpilot.runners.config_commands import app

runner = CliRunner()


@pytest.fixture
def write(tmp_path):
    def _write(content):
        path = tmp_path / "given.yaml"
        path.write_text(content)
        return str(path)

    return _write


@pytest.mark.parametrize("name", presets())
def test_a_shown_preset_is_a_file_that_reads_back(name, write):
    shown = runner.invoke(app, ["show", name])
    assert shown.exit_code == 0
    assert load_tuner_config(write(shown.stdout), warn=False) == preset(name)


def test_show_without_a_name_shows_the_defaults():
    shown = runner.invoke(app, ["show", "--json"])
    assert json.loads(shown.stdout) == {"dynamic_batch_tuner": TunerConfig().to_dict()}


def test_a_shown_file_has_its_defaults_filled_in(write):
    shown = runner.invoke(app, ["show", write("dynamic_batch_tuner:\n  max_batch_size: 128\n")])
    section = yaml.safe_load(shown.stdout)["dynamic_batch_tuner"]
    assert section == TunerConfig(max_batch_size=128).to_dict()


@pytest.mark.parametrize("source", ["a100", "absent.yaml"])
def test_what_cannot_be_shown_is_said_and_fails(source):
    shown = runner.invoke(app, ["show", source])
    assert shown.exit_code == 1
    assert source in shown.stderr
    assert "Traceback" not in shown.output


def test_a_valid_file_passes(write):
    checked = runner.invoke(app, ["validate", write("dynamic_batch_tuner:\n  max_batch_size: 128\n")])
    assert checked.exit_code == 0
    assert "a valid tuner configuration" in checked.stdout


def test_a_warning_is_printed_with_its_line_and_passes(write):
    checked = runner.invoke(app, ["validate", write("dynamic_batch_tuner:\n  max_batch_size: 1024\n")])
    assert checked.exit_code == 0
    assert "warning: max_batch_size is 1024" in checked.stderr
    assert "line 2" in checked.stderr


@pytest.mark.parametrize(
    ("content", "says"),
    [
        ("dynamic_batch_tuner:\n  max_batch_sizes: 64\n", "did you mean max_batch_size"),
        ("dynamic_batch_tuner:\n  min_batch_size: 64\n  max_batch_size: 32\n", "64 is above max_batch_size 32"),
        ("dynamic_batch_tuner: [\n", "not YAML"),
        ("", "expected a mapping"),
        ("device: A10\nworkload: {}\n", "missing"),
    ],
)
def test_an_invalid_file_is_refused_with_the_reason_and_its_place(write, content, says):
    path = write(content)
    checked = runner.invoke(app, ["validate", path])
    assert checked.exit_code == 1
    assert says in checked.stderr
    assert path in checked.stderr


def test_a_file_that_is_not_there_is_refused():
    checked = runner.invoke(app, ["validate", "absent.yaml"])
    assert checked.exit_code == 1
    assert "cannot read absent.yaml" in checked.stderr


def test_machines_are_told_errors_by_key(write):
    path = write("dynamic_batch_tuner:\n  growth_coefficient: -1\n")
    checked = runner.invoke(app, ["validate", path, "--json"])
    report = json.loads(checked.stdout)
    assert checked.exit_code == 1
    assert (report["file"], report["kind"], report["valid"], report["warnings"]) == (path, "tuner", False, [])
    assert "growth_coefficient is -1" in report["errors"]["growth_coefficient"]


def test_a_scenario_is_recognised_checked_and_reads_back(write):
    scenario = """\
name: mine
description: A steady load.
family: stationary
device: A10
model: Qwen3-0.6B
duration_s: 60
workload:
  phases:
    - duration_s: 60
      arrivals: {kind: poisson, rate_per_s: 2}
      lengths: {kind: fixed, prompt_tokens: 8, output_tokens: 4}
"""
    checked = runner.invoke(app, ["validate", write(scenario)])
    assert checked.exit_code == 0, checked.stderr
    assert "a valid scenario configuration" in checked.stdout
    shown = runner.invoke(app, ["show", write(scenario)])
    assert runner.invoke(app, ["validate", write(shown.stdout)]).exit_code == 0
