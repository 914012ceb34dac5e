"""Building tuners by name, lightly."""

import json
import subprocess
import sys

import pytest

from batchpilot.configs.tuner import TunerConfig
from batchpilot.core import SLO, Limits, Tuner, WindowMetrics
from batchpilot.tuners import TUNERS, make_tuner

NEEDS = {"optuna-tpe": ("optuna",), "optuna-gp": ("optuna", "torch"), "optuna-cmaes": ("optuna", "cmaes")}
BASE = Limits(batch_size=256, token_budget=2048, max_queued_tokens=50_000)


@pytest.mark.parametrize("name", [name for name in TUNERS if name != "policy"])  # it needs a file
def test_every_tuner_answers_the_whole_contract(name):
    for package in NEEDS.get(name, ()):
        pytest.importorskip(package)
    tuner = make_tuner(name, TunerConfig(), base=BASE, slo=SLO(1000.0, 50.0), seed=3)
    assert isinstance(tuner, Tuner)
    assert tuner.name == name
    for index in range(3):
        limits = tuner.ask()
        window = WindowMetrics(
            limits=limits, start_ms=1000.0 * index, duration_ms=1000.0, busy_ms=900.0, steps=30, generated_tokens=200
        )
        tuner.tell(window)
    json.dumps(tuner.status(), allow_nan=False)
    saved = json.loads(json.dumps(tuner.state_dict(), allow_nan=False))
    copy = make_tuner(name)
    copy.load_state_dict(saved)
    assert copy.ask() == tuner.ask()
    assert copy.status() == tuner.status()
    tuner.reset(seed=4)
    assert tuner.ask() == make_tuner(name, TunerConfig(), base=BASE, slo=SLO(1000.0, 50.0)).ask()
    with pytest.raises(ValueError, match="state"):
        tuner.load_state_dict({"tuner": "another"})
    with pytest.raises(ValueError, match="incomplete"):
        tuner.load_state_dict({"tuner": saved["tuner"]})


def test_an_unknown_name_is_answered_with_the_closest_ones():
    with pytest.raises(ValueError, match="did you mean 'hybrid'"):
        make_tuner("hybird-ish")


def test_the_name_decides_the_strategy():
    assert make_tuner("hybrid", TunerConfig(strategy="static")).status()["strategy"] == "hybrid"


def test_options_reach_the_tuner():
    with pytest.raises(ValueError, match="windows_per_decision"):
        make_tuner("dynamic", windows_per_decision=0)
    with pytest.raises(TypeError):
        make_tuner("dynamic", colour="blue")


def test_importing_tuners_loads_nothing_heavy():
    heavy = ["numba", "scipy", "gymnasium", "torch", "matplotlib", "optuna"]
    code = f"import sys, batchpilot.tuners; print([name for name in {heavy} if name in sys.modules])"
    printed = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True).stdout
    assert printed.strip() == "[]"
