"""What the command line knows is listed by it, and every listed name is taken where it belongs."""

import json
import subprocess
import sys

import pytest
from typer.testing import CliRunner

import batchpilot
from batchpilot.baselines import Setting
from batchpilot.configs.catalogue import device, model
from batchpilot.configs.scenario import scenario
from batchpilot.configs.tuner_files import preset
from batchpilot.runners.chosen import suite_names
from batchpilot.runners.leaderboard.strategies import REFERENCES, make_strategy
from batchpilot.runners.list_command import KINDS
from batchpilot.runners.main import app


def listed(kind):
    return json.loads(CliRunner().invoke(app, ["list", kind, "--json"]).stdout)


@pytest.mark.parametrize(
    ("kind", "take"), [("devices", device), ("models", model), ("scenarios", scenario), ("presets", preset)]
)
def test_every_listed_name_is_taken(kind, take):
    assert len(listed(kind)) > 3
    for name in listed(kind):
        take(name)


def test_every_listed_tuner_can_be_typed():
    pytest.importorskip("optuna")
    for name in listed("tuners"):
        if name not in ("policy", "optuna-cmaes"):  # a policy needs its file, the other an extra
            assert name in REFERENCES or make_strategy(name, Setting())


def test_suites_are_those_of_the_leaderboard():
    assert list(listed("suites")) == suite_names()


@pytest.mark.parametrize("kind", list(KINDS))
def test_the_table_names_each(kind):
    shown = CliRunner().invoke(app, ["list", kind])
    assert shown.exit_code == 0
    assert all(name in shown.stdout for name in KINDS[kind]())


def test_an_unknown_kind_is_answered_with_the_closest():
    told = CliRunner().invoke(app, ["list", "tuner"])
    assert told.exit_code == 2
    assert "did you mean 'tuners'" in told.output


def test_the_package_runs_as_a_module_and_tells_its_version():
    told = subprocess.run([sys.executable, "-m", "batchpilot", "--version"], capture_output=True, text=True, check=True)
    assert told.stdout.strip() == f"batchpilot {batchpilot.__version__}"
