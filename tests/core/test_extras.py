"""A missing optional package is told by name, with the extra that brings it, wherever it is imported."""

import json
import subprocess
import sys
import tomllib
from pathlib import Path

import pytest

from batchpilot.core.extras import EXTRAS, MissingExtraError, needing

PYPROJECT = Path(__file__).parents[2] / "pyproject.toml"

ASKED = """
import importlib, importlib.abc, json, sys
from typer.testing import CliRunner

class Blocked(importlib.abc.MetaPathFinder):
    def find_spec(self, name, path=None, target=None):
        if name.partition(".")[0] in block:
            raise ModuleNotFoundError(f"No module named {name!r}", name=name)

block, commands, modules = json.load(sys.stdin)
sys.meta_path.insert(0, Blocked())
from batchpilot.runners.main import app

answers = []
for command in commands:
    result = CliRunner().invoke(app, command)
    answers.append([result.exit_code, result.output, repr(result.exception)])
for module in modules:
    try:
        importlib.import_module(module)
        answers.append([0, "", ""])
    except ImportError as error:
        answers.append([1, str(error), ""])
json.dump(answers, sys.stdout)
"""
"""Run in a process in which no optional package can be imported: what commands and imports answer."""


def module_of(requirement):
    return requirement.partition(">")[0].partition("[")[0].partition(";")[0].strip().replace("-", "_")


def test_the_modules_of_an_extra_are_those_of_the_project_file():
    extras = tomllib.loads(PYPROJECT.read_text())["project"]["optional-dependencies"]
    for extra, modules in EXTRAS.items():
        declared = {module_of(requirement) for requirement in extras[extra]}
        assert declared <= set(modules), extra
    # Stable-baselines3 brings torch; no other module is claimed without being declared.
    assert {name for name, modules in EXTRAS.items() if set(modules) - set(map(module_of, extras[name]))} == {"rl"}


COMMANDS = {
    ("serve", "--model", "tiny-llama"): "torch",
    ("validate", "--model", "tiny-llama"): "torch",
    ("leaderboard", "--backend", "torch", "--suite", "quick-torch", "--out", "out"): "torch",
    ("compare", "--backend", "torch"): "torch",
    ("load", "--backend", "torch", "--model", "tiny-llama"): "torch",
    ("calibrate", "--engine", "torch", "--model", "tiny-llama"): "torch",
    ("gateway", "--upstream", "http://127.0.0.1:9"): "serve",
    ("gateway", "--upstream", "http://127.0.0.1:9", "--tokenizer", "tokenizer.json"): "serve",
    ("tune", "--scenario", "quick-chat", "--out", "out"): "tune",
    ("tune", "--scenario", "quick-chat", "--sampler", "cmaes", "--out", "out"): "tune",
    ("simulate", "quick-steady", "--tuner", "optuna-tpe"): "tune",
    ("leaderboard", "--suite", "quick", "--cluster", "local", "--tuners", "static-8", "--out", "out"): "ray",
    ("train", "--config", "guarded", "--out", "out"): "rl",
    ("export", "out", "--out", "policy.onnx"): "rl",
    ("catalogue", "build", "--device", "H200", "--model", "Qwen3-8B"): "devices",
}
MODULES = {
    "batchpilot.engines.torch": "torch",
    "batchpilot.serving.server.app": "serve",
    "batchpilot.agents.sb3": "rl",
    "batchpilot.agents.training.run": "rl",
    "batchpilot.agents.export.model": "rl",
    "batchpilot.serving.adapters.ray_serve": "ray",
    "batchpilot.serving.adapters.litserve_loop": "litserve",
    "batchpilot.serving.adapters.vllm_scheduler": "vllm",
}


def test_without_extras_every_command_and_import_names_the_extra_it_lacks_and_the_rest_works(tmp_path):
    block = sorted({module for modules in EXTRAS.values() for module in modules})
    works = ["simulate", "quick-steady", "--tuner", "guarded-adaptive", "--json"]
    asked = json.dumps([block, [*COMMANDS, works], [*MODULES]])
    process = [sys.executable, "-c", ASKED]
    done = subprocess.run(process, input=asked, capture_output=True, text=True, check=False, cwd=tmp_path)
    assert done.returncode == 0, done.stderr
    answers = json.loads(done.stdout)
    commands, simulated, modules = answers[: len(COMMANDS)], answers[len(COMMANDS)], answers[len(COMMANDS) + 1 :]
    assert simulated[0] == 0, simulated
    for (command, extra), (code, told, raised) in zip(COMMANDS.items(), commands, strict=True):
        assert code == 2, (command, told, raised)
        assert "needs the package" in told, command
        assert f"pip install 'batchpilot[{extra}]'" in " ".join(told.split()), command
    for (module, extra), (_, told, _) in zip(MODULES.items(), modules, strict=True):
        assert f"pip install 'batchpilot[{extra}]'" in told, module


@pytest.mark.parametrize(
    ("package", "extra"),
    [("torch", "torch"), ("fastapi", "serve"), ("uvicorn.config", "serve"), ("onnxruntime", "serve")],
)
def test_of_two_extras_the_one_that_is_missing_is_named(package, extra):
    told = rf"needs the package {package.partition('.')[0]}.*batchpilot\[{extra}\]"
    with pytest.raises(MissingExtraError, match=told), needing("serving", "torch", "serve"):
        raise ModuleNotFoundError(name=package)


def test_what_was_told_within_is_told_once():
    with (
        pytest.raises(MissingExtraError, match=r"^the inner one needs"),
        needing("the outer one", "serve"),
        needing("the inner one", "torch"),
    ):
        raise ModuleNotFoundError(name="torch")


def test_what_is_installed_and_broken_is_told_as_such():
    told = r"the gateway cannot import .*not_there.*batchpilot\[serve\]"
    with pytest.raises(MissingExtraError, match=told), needing("the gateway", "serve"):
        from batchpilot.core.names import not_there  # noqa: F401
