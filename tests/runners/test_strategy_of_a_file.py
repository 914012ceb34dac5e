"""`strategy` in a configuration file selects the tuner where no `--tuner` is given."""

import json

import pytest
from typer.testing import CliRunner

from batchpilot.configs import TunerConfig
from batchpilot.runners.main import app
from batchpilot.runners.selection import chosen_tuner


@pytest.fixture
def file(tmp_path):
    path = tmp_path / "tuner.yaml"
    path.write_text("dynamic_batch_tuner:\n  strategy: static\n  fixed_batch_size: 16\n")
    return path


def figures(*options):
    run = CliRunner().invoke(app, ["simulate", "quick-chat", "--json", *map(str, options)])
    assert run.exit_code == 0, run.output
    return json.loads(run.stdout)


def test_the_file_decides_in_simulate(file):
    found = figures("--config", file)
    assert found["strategy"] == "static"
    assert "batch_size=16" in found["final_limits"]


def test_a_typed_tuner_wins_over_the_file(file):
    assert figures("--config", file, "--tuner", "hybird")["strategy"] == "hybrid"


def test_the_rule_that_every_command_shares(file):
    section = TunerConfig(strategy="static")
    assert chosen_tuner("aimd", file, section, "guarded-adaptive") == "aimd"
    assert chosen_tuner(None, file, section, "guarded-adaptive") == "static"
    assert chosen_tuner(None, None, TunerConfig(), "guarded-adaptive") == "guarded-adaptive"
